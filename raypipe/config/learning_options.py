"""Options of the stages from the labels on: labels, training, predictions, report and study."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ValidationError, ValidationInfo, field_validator

from raypipe.config.base import (
    DEFAULT_EPOCHS,
    AnyPath,
    ConfigurationLetter,
    Name,
    NameOrEmpty,
    Section,
    Share,
    StringList,
    option,
    split_formulas,
    split_list,
)
from raypipe.config.search_space import Distribution, domains_by_letter


class LabelOptions(Section):
    """From engagement to labels (paper, section 3.1)."""

    scheme: Literal["residual", "karpathy", "quantiles", "continuous", "column", "hashtags"] = option(
        "residual", "rule that makes the labels; residual: the paper's deciles of the score"
    )
    formula: str = option(
        "log10(1 + likes) ~ log10(1 + followers) + n_hashtags", "regression in Wilkinson notation (paper, equation 1)"
    )
    weights: str | None = option(None, "posts column with weights above 0 for the regression; default: equal weights")
    quantile: float = option(0.1, "share of posts in each extreme class", gt=0, le=0.5)
    classes: int = option(4, "number of classes of the scheme quantiles", ge=2)
    group: int = option(100, "posts per group of the scheme karpathy", ge=2)
    outliers: float = option(
        0.0, "share of posts that the scheme karpathy leaves out at each end of followers and of likes", ge=0, lt=0.5
    )
    hashtags: StringList = option([], "tags of the scheme hashtags, without #")
    column: str | None = option(None, "posts column with the label, for the scheme column")
    eligible: Literal["one_face", "with_face", "image", "post"] = option(
        "one_face", "posts that take part: with one face, any face, a picture, or all"
    )
    cov_type: Literal["nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"] = option(
        "nonrobust", "kind of standard errors; cluster: by user"
    )
    split: str = option("random", "random, user, time, or a posts column with the values train, val, test")
    val: Share = option(0.25, "share of labelled posts for validation (paper, section 5.1)")
    test: Share = option(0.0, "share of labelled posts kept apart for the final test")
    on_ray: bool | None = option(
        None,
        "compute in Ray tasks instead of threads; default: on a cluster (RAY_ADDRESS) with 5 million posts or more",
        result=False,
    )


class JudgeOptions(Section):
    """How good the labels are, measured before training."""

    sample: int = option(200_000, "approximate number of eligible posts to use", ge=10)
    bootstraps: int = option(100, "number of bootstrap samples of users", ge=2)
    formulas: Annotated[list[str], BeforeValidator(split_formulas)] = option(
        [], "formulas to compare with label.formula, separated by ;; default: those that the paper proposes"
    )


IMAGE_SIZES = (32, 2048)
"""Minimum and maximum pixels per side: VGG-16 halves a picture five times, and memory grows with the square."""

Form = Literal["paper", "modern"]
FORMS: tuple[str, ...] = get_args(Form)


class TrainOptions(Section):
    """Fine-tune VGG-16 (paper, section 5)."""

    config: ConfigurationLetter = option("A", "configuration of the paper")
    name: Name | None = option(None, "folder under train/; default: the configuration's letter")
    model: str = option("vgg16", "vgg16, vgg19, or another classifier of torchvision (resnet50), or timm/NAME")
    weights: AnyPath = option(
        "auto", "initial weights: imagenet, imagenet-caffe, random, auto, or a .h5, .pth or .safetensors file"
    )
    fresh_fc: bool = option(False, "initialise the FC layers of C and D at random if the weights have none")
    init: Literal["lsuv", "he", "glorot"] = option("lsuv", "initialisation of convolutions without weights")
    form: Form = option(
        "paper", "paper: SGD as in the paper; modern: AdamW, cosine, smoothed labels, random crops, averaged weights"
    )
    image_size: int = option(224, "pixels per side", ge=IMAGE_SIZES[0], le=IMAGE_SIZES[1])
    epochs: int | dict[ConfigurationLetter, int] = option(
        dict(DEFAULT_EPOCHS), "number of epochs, one for all or one per configuration"
    )
    batch_size: int = option(32, "pictures per step, of all workers together", ge=1)
    learning_rate: float | dict[ConfigurationLetter, float] | None = option(
        None, "one for all or one per configuration; default: 0.001 for the form paper, 0.0001 for modern"
    )
    flips: bool = option(True, "random horizontal flips")
    patience: int | None = option(
        None, "stop after so many epochs without a better validation accuracy (scheme continuous: loss)", ge=1
    )
    saturation: float | None = option(
        None, "stop after the first epoch with this training accuracy (paper, section 5.2)", gt=0, le=1
    )
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "number format; auto: bfloat16 if the hardware supports it"
    )
    compile: Literal["none", "default", "reduce-overhead"] = option(
        "none", "torch.compile mode; reduce-overhead uses CUDA graphs; useful if epochs are long"
    )
    micro_batch: int | None = option(
        None,
        "pictures of a batch that are in the network at once; default: the batch, halved if memory is short",
        ge=1,
        result=False,
    )
    pictures: Literal["auto", "local", "stream"] = option(
        "auto",
        "decoded pictures of an object store: copied to each machine once, or streamed in every epoch; "
        "auto: copied if there is room",
        result=False,
    )
    keep_features: bool = option(True, "keep A's features for other seeds: 0.05 to 0.1 MB per picture", result=False)
    workers: int = option(1, "data-parallel workers per trial; results do not depend on it", ge=1, result=False)
    gpu: bool | None = option(None, "use GPUs; default: if the cluster has any", result=False)
    max_failures: int = option(
        2,
        "how often a trial may lose workers or nodes before it finishes another epoch; announced ends of spot nodes "
        "do not count",
        ge=0,
        result=False,
    )
    save: Literal["all", "best", "winner", "none"] = option(
        "all",
        "checkpoints to keep. all: last and best of each trial; best: best of each; winner: best of the sweep; none: "
        "interrupted trials begin again",
        result=False,
    )

    @field_validator("epochs")
    @classmethod
    def _check_epochs(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        if any(number < 1 for number in (value.values() if isinstance(value, dict) else [value])):
            raise ValueError("epochs must be 1 or more")
        # Configurations that are not listed keep the paper's epochs.
        return {**DEFAULT_EPOCHS, **value} if isinstance(value, dict) else value

    @field_validator("learning_rate")
    @classmethod
    def _check_learning_rate(cls, value: float | dict[str, float] | None) -> float | dict[str, float] | None:
        if any(not rate > 0 for rate in (value.values() if isinstance(value, dict) else [value]) if rate is not None):
            raise ValueError("a learning rate must be above 0")
        return value


# All trials of a sweep share pictures and starting weights. Configuration and form have their own lists in a sweep.
_FIXED_IN_SWEEP = ("config", "name", "form", "model", "weights", "image_size")


def sweepable_options() -> list[str]:
    """Names of the options of `train` that a sweep's space may vary."""
    fields = TrainOptions.model_fields.items()
    return [
        name
        for name, info in fields
        if name not in _FIXED_IN_SWEEP and (info.json_schema_extra or {}).get("result")  # type: ignore[union-attr]
    ]


def parse_hyperparameter(name: str, value: Any) -> Any:
    """A value converted to the type of an option of `train`. Raises ValueError, which says what is allowed."""
    try:
        return getattr(TrainOptions.model_validate({name: value}), name)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"{name} cannot be {value!r}: {message[0].lower()}{message[1:]}") from error


def _check_space(space: dict[str, Any]) -> dict[str, Any]:
    known = sweepable_options()
    for name, spec in space.items():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
            raise ValueError(f"{name} is not an option of train that can vary in a sweep; {hint}")
        try:
            found = domains_by_letter(spec)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        for kind in found.values():
            for value in kind.values if not isinstance(kind, Distribution) or kind.name == "choice" else ():
                if isinstance(value, dict):
                    raise ValueError(f"{name}: {value} cannot be a value; write {{A: [0.1, 0.2]}} for a grid of A")
                parse_hyperparameter(name, value)
    return space


class SweepOptions(Section):
    """Configurations and seeds as Ray Tune trials (paper, table 1)."""

    configs: Annotated[list[ConfigurationLetter], BeforeValidator(split_list)] = option(
        ["A", "B", "C", "D"], "configurations to train", min_length=1
    )
    forms: Annotated[list[Form], BeforeValidator(split_list)] = option(
        [], "forms to train for each configuration, such as paper,modern; default: train.form"
    )
    seeds: int = option(1, "number of seeds per configuration", ge=1)
    space: dict[str, Any] = option(
        {}, "options of train to vary: {learning_rate: [0.001, 0.003], batch_size: {choice: [16, 32]}}"
    )
    samples: int = option(1, "number of draws from the distributions in sweep.space", ge=1)
    scheduler: Literal["fifo", "asha"] = option("fifo", "fifo: all trials run to their end; asha: bad trials end early")
    grace: int = option(1, "asha: epochs before a trial may end; also the first rung", ge=1)
    reduction: int = option(3, "asha: one in so many trials passes a rung; rungs are so many times apart", ge=2)
    rivals: Literal["configuration", "all"] = option(
        "configuration", "asha: compare trials of the same configuration, form and seed, or all trials"
    )
    concurrent: int | None = option(
        None, "simultaneous trials; default: as many as the hardware allows", ge=1, result=False
    )
    gpu_share: float | dict[ConfigurationLetter, float] = option(
        {"A": 0.5},
        "share of a GPU for a trial with one worker, one for all or one per configuration; default: a whole GPU",
        result=False,
    )
    mlflow: str | None = option(None, "MLflow tracking URI or folder that gets a log of every trial", result=False)

    @field_validator("space")
    @classmethod
    def _check_space_option(cls, space: dict[str, Any]) -> dict[str, Any]:
        return _check_space(space)

    @field_validator("gpu_share")
    @classmethod
    def _check_gpu_share(cls, share: float | dict[str, float]) -> float | dict[str, float]:
        if any(not 0 < number <= 1 for number in (share.values() if isinstance(share, dict) else [share])):
            raise ValueError("a share of a GPU must be above 0 and at most 1")
        return share

    @field_validator("samples")
    @classmethod
    def _check_samples(cls, samples: int, info: ValidationInfo) -> int:
        kinds = [kind for spec in info.data.get("space", {}).values() for kind in domains_by_letter(spec).values()]
        if samples > 1 and "space" in info.data and not any(isinstance(kind, Distribution) for kind in kinds):
            raise ValueError("more than 1 needs a distribution in sweep.space, such as {loguniform: [1e-4, 1e-2]}")
        return samples

    @field_validator("rivals")
    @classmethod
    def _check_rivals(cls, rivals: str, info: ValidationInfo) -> str:
        if info.data.get("scheduler") == "asha" and rivals == "configuration" and info.data.get("space") == {}:
            raise ValueError(
                "without sweep.space each configuration has one trial per seed, so asha has nothing to compare; "
                "set sweep.space, or --sweep.rivals all"
            )
        return rivals


class PredictOptions(Section):
    """Apply a trained model to pictures."""

    model: str | None = option(None, "train/NAME, sweep/TRIAL, or a checkpoint file; default: the best of the sweep")
    inputs: StringList = option([], "pictures, folders, or manifests (CSV, JSONL or Parquet with a column path)")
    name: Name = option("default", "folder under predict/")


class ReportOptions(Section):
    """The HTML report."""

    examples: int = option(12, "number of example pictures of each kind", ge=0)
    title: str = option("raypipe report", "title of the page")


class BoardOptions(Section):
    """TensorBoard for the trained models."""

    port: int = option(6006, "port of the page on this machine; 0: any free port", ge=0, le=65535, result=False)


class StudyOptions(Section):
    """A page on which people classify pictures (paper, table 2)."""

    pictures: int = option(50, "number of pictures per person", ge=1)
    participant: NameOrEmpty = option("", "name of the person; also the folder under study/")
    port: int = option(8472, "port of the page on this machine", ge=1, le=65535, result=False)
