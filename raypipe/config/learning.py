"""Options of the stages from the labels on: labels, training, predictions, report and study."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ValidationError, ValidationInfo, field_validator

from raypipe.config.base import (
    AnyPath,
    Letter,
    Name,
    NameOrEmpty,
    Section,
    Share,
    StringList,
    option,
    split_formulas,
    split_list,
)
from raypipe.config.space import Distribution, domains


class LabelOptions(Section):
    """From engagement to labels (paper, section 3.1)."""

    scheme: Literal["residual", "karpathy", "quantiles", "continuous", "column", "hashtags"] = option(
        "residual", "what the label is: the paper's residual deciles by default"
    )
    formula: str = option(
        "log10(1 + likes) ~ log10(1 + followers) + n_hashtags", "the paper's equation (1), in Wilkinson notation"
    )
    weights: str | None = option(
        None, "posts column of weights for the regression, above 0; all weigh the same where absent"
    )
    quantile: float = option(0.1, "share of posts in each extreme class", gt=0, le=0.5)
    classes: int = option(4, "classes of the scheme `quantiles`", ge=2)
    group: int = option(100, "posts in a group of the scheme `karpathy`", ge=2)
    outliers: float = option(
        0.0, "share of posts at each end of followers and of likes that the scheme `karpathy` leaves out", ge=0, lt=0.5
    )
    hashtags: StringList = option([], "tags of the scheme `hashtags`, without #")
    column: str | None = option(None, "posts column that holds the label, for the scheme `column`")
    eligible: Literal["one_face", "with_face", "image", "post"] = option("one_face", "which posts take part")
    cov_type: Literal["nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"] = option(
        "nonrobust", "standard errors; cluster is by user"
    )
    split: str = option("random", "random, user, time, or a posts column that holds train, val, test")
    val: Share = option(0.25, "share of labelled posts held out for validation (paper, section 5.1)")
    test: Share = option(0.0, "share of labelled posts that training and choosing never look at")
    on_ray: bool | None = option(
        None,
        "spread the passes over Ray's tasks instead of this process's threads; where absent, on a cluster "
        "(RAY_ADDRESS) from 5 million posts on",
        result=False,
    )


class JudgeOptions(Section):
    """What labels are worth before any GPU is spent."""

    sample: int = option(200_000, "eligible posts to judge by, about", ge=10)
    bootstraps: int = option(100, "bootstrap samples of users", ge=2)
    formulas: Annotated[list[str], BeforeValidator(split_formulas)] = option(
        [], "formulas to compare with label.formula, as a;b; the paper's outlook where absent"
    )


_EPOCHS = {"A": 12, "B": 9, "C": 8, "D": 20}
"""Epochs per configuration, from the paper's table 1."""

IMAGE_SIZES = (32, 2048)
"""Minimum and maximum pixels per side: VGG-16 halves a picture five times, and memory grows with the square."""

Form = Literal["paper", "modern"]
FORMS: tuple[str, ...] = get_args(Form)


class TrainOptions(Section):
    """Fine-tuning VGG-16 (paper, section 5)."""

    config: Letter = option("A", "the paper's configuration")
    name: Name | None = option(None, "folder under train/; the configuration's letter where absent")
    model: str = option("vgg16", "vgg16, vgg19, or another classifier of torchvision (resnet50), or timm/NAME")
    weights: AnyPath = option(
        "auto", "imagenet, imagenet-caffe, random, auto, or the path of a .h5, .pth or .safetensors file"
    )
    fresh_fc: bool = option(False, "start C's and D's FC layers fresh where the weights have none")
    init: Literal["lsuv", "he", "glorot"] = option("lsuv", "initialisation of random convolutions")
    form: Form = option(
        "paper", "the paper's SGD, or today's: AdamW, cosine, smoothed labels, random crops, averaged weights"
    )
    image_size: int = option(224, "pixels of a side", ge=IMAGE_SIZES[0], le=IMAGE_SIZES[1])
    epochs: int | dict[Letter, int] = option(dict(_EPOCHS), "epochs, one number or one a configuration")
    batch_size: int = option(32, "pictures in a step, over all workers", ge=1)
    learning_rate: float | dict[Letter, float] | None = option(
        None, "one number or one a configuration; 0.001 for the paper's form, 0.0001 for the modern, where absent"
    )
    flips: bool = option(True, "random horizontal flips")
    patience: int | None = option(
        None, "epochs without a better validation accuracy (loss, for the scheme continuous) before stopping", ge=1
    )
    saturation: float | None = option(
        None, "training accuracy from which on an epoch is the last (paper, section 5.2)", gt=0, le=1
    )
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "arithmetic; auto: bfloat16 where the hardware has it"
    )
    compile: Literal["none", "default", "reduce-overhead"] = option(
        "none", "torch.compile of the network; reduce-overhead uses CUDA graphs; pays where epochs are long"
    )
    micro_batch: int | None = option(
        None,
        "pictures of a batch in the network at a time, gradients added up; halved by itself where memory is short",
        ge=1,
        result=False,
    )
    pictures: Literal["auto", "local", "stream"] = option(
        "auto",
        "decoded pictures of a root that is no disk: copied to each machine once, or streamed in every epoch; "
        "auto: copied where there is room",
        result=False,
    )
    keep_features: bool = option(
        True, "keep A's features beside the decoded pictures for other seeds: 0.05 to 0.1 MB each", result=False
    )
    workers: int = option(1, "data-parallel workers of one trial; results do not depend on it", ge=1, result=False)
    gpu: bool | None = option(None, "use GPUs; where absent, if the cluster has any", result=False)
    max_failures: int = option(
        2,
        "how often in turn a trial may lose workers or nodes without an epoch finished in between; announced ends of "
        "spot nodes do not count",
        ge=0,
        result=False,
    )
    save: Literal["all", "best", "winner", "none"] = option(
        "all",
        "checkpoints to keep: last and best of each trial, best of each, best of all, none (an interrupted trial then "
        "begins again)",
        result=False,
    )

    @field_validator("epochs")
    @classmethod
    def _positive(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        if any(number < 1 for number in (value.values() if isinstance(value, dict) else [value])):
            raise ValueError("epochs must be 1 or more")
        # Configurations that are not given keep the paper's epochs.
        return {**_EPOCHS, **value} if isinstance(value, dict) else value

    @field_validator("learning_rate")
    @classmethod
    def _above_zero(cls, value: float | dict[str, float] | None) -> float | dict[str, float] | None:
        if any(not rate > 0 for rate in (value.values() if isinstance(value, dict) else [value]) if rate is not None):
            raise ValueError("a learning rate must be above 0")
        return value


# All trials of a sweep share pictures and starting weights. Configuration and form have their own lists in a sweep.
_SHARED = ("config", "name", "form", "model", "weights", "image_size")


def varying() -> list[str]:
    """Names of the options of `train` that a sweep's space may vary."""
    fields = TrainOptions.model_fields.items()
    return [
        name
        for name, info in fields
        if name not in _SHARED and (info.json_schema_extra or {}).get("result")  # type: ignore[union-attr]
    ]


def hyperparameter(name: str, value: Any) -> Any:
    """A value converted to the type of an option of `train`. Raises ValueError, which says what is allowed."""
    try:
        return getattr(TrainOptions.model_validate({name: value}), name)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name} cannot be {value!r}: {message[0].lower()}{message[1:]}") from error


def _check_space(space: dict[str, Any]) -> dict[str, Any]:
    known = varying()
    for name, spec in space.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"those are {', '.join(known)}"
            raise ValueError(f"{name} is no option of train that can vary in a sweep; {hint}")
        try:
            found = domains(spec)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        for kind in found.values():
            for value in kind.values if not isinstance(kind, Distribution) or kind.name == "choice" else ():
                if isinstance(value, dict):
                    raise ValueError(f"{name}: {value} stands for one trial; write {{A: [0.1, 0.2]}} for a grid of A's")
                hyperparameter(name, value)
    return space


class SweepOptions(Section):
    """Configurations and seeds as Ray Tune trials (paper, table 1)."""

    configs: Annotated[list[Letter], BeforeValidator(split_list)] = option(
        ["A", "B", "C", "D"], "configurations to train", min_length=1
    )
    forms: Annotated[list[Form], BeforeValidator(split_list)] = option(
        [], "forms of each configuration, side by side: paper,modern; that of train.form where absent"
    )
    seeds: int = option(1, "seeds of each configuration", ge=1)
    space: dict[str, Any] = option(
        {}, "options of train to vary: {learning_rate: [0.001, 0.003], batch_size: {choice: [16, 32]}}"
    )
    samples: int = option(1, "draws from the distributions of sweep.space", ge=1)
    scheduler: Literal["fifo", "asha"] = option("fifo", "asha ends trials early that do worse than their rivals")
    grace: int = option(1, "epochs before asha may end a trial; also its first rung", ge=1)
    reduction: int = option(3, "asha: one in so many goes on at a rung, and rungs are so many times apart", ge=2)
    rivals: Literal["configuration", "all"] = option(
        "configuration", "asha compares trials of one configuration, form and seed, or all with all"
    )
    concurrent: int | None = option(
        None, "trials at a time; as many as the hardware allows where absent", ge=1, result=False
    )
    gpu_share: float | dict[Letter, float] = option(
        {"A": 0.5},
        "part of a GPU for a trial of one worker, one number or one a configuration; a whole where absent",
        result=False,
    )
    mlflow: str | None = option(None, "MLflow's tracking URI, or a folder, to log every trial to", result=False)

    @field_validator("space")
    @classmethod
    def _known(cls, space: dict[str, Any]) -> dict[str, Any]:
        return _check_space(space)

    @field_validator("gpu_share")
    @classmethod
    def _part(cls, share: float | dict[str, float]) -> float | dict[str, float]:
        if any(not 0 < number <= 1 for number in (share.values() if isinstance(share, dict) else [share])):
            raise ValueError("a share of a GPU must be above 0 and at most 1")
        return share

    @field_validator("samples")
    @classmethod
    def _drawn(cls, samples: int, info: ValidationInfo) -> int:
        kinds = [kind for spec in info.data.get("space", {}).values() for kind in domains(spec).values()]
        if samples > 1 and "space" in info.data and not any(isinstance(kind, Distribution) for kind in kinds):
            raise ValueError("samples are drawn from distributions in sweep.space, such as {loguniform: [1e-4, 1e-2]}")
        return samples

    @field_validator("rivals")
    @classmethod
    def _compared(cls, rivals: str, info: ValidationInfo) -> str:
        if info.data.get("scheduler") == "asha" and rivals == "configuration" and info.data.get("space") == {}:
            raise ValueError(
                "without sweep.space each configuration has one trial a seed, and asha nothing to compare; "
                "give a space, or --sweep.rivals all"
            )
        return rivals


class PredictOptions(Section):
    """Applying a trained model."""

    model: str | None = option(
        None, "a train/NAME or sweep trial folder or a checkpoint file; the sweep's best where absent"
    )
    inputs: StringList = option([], "pictures, folders, or manifests: CSV, JSONL or Parquet with a column path")
    name: Name = option("default", "folder under predict/")


class ReportOptions(Section):
    """The HTML report."""

    examples: int = option(12, "pictures shown of each kind", ge=0)
    title: str = option("raypipe report", "title of the page")


class BoardOptions(Section):
    """TensorBoard on what was trained."""

    port: int = option(6006, "port of the page on loopback", ge=0, le=65535, result=False)


class StudyOptions(Section):
    """People classify pictures (paper, table 2)."""

    pictures: int = option(50, "pictures a person is shown", ge=1)
    participant: NameOrEmpty = option("", "name of the person: folder under study/, written beside the answers")
    port: int = option(8472, "port of the page on loopback", ge=1, le=65535, result=False)
