"""The one typed configuration that a YAML file, the command line and Python fill.

Every option has a default, a description with its unit, and a mark where the result of a stage does not depend on it
(how many actors, where the dashboard is): those may change between an interrupted run and its resume.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from raypipe.schemas import FailedStatus
from raypipe.storage import Storage


class Section(BaseModel):
    """A group of options; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, allow_inf_nan=False)


def _split(value: Any) -> Any:
    # The command line gives a list as `a,b` or `[a,b]`.
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]")
        return [item.strip() for item in text.split(",") if item.strip()]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _split_formulas(value: Any) -> Any:
    # Formulas have commas of their own.
    return [item.strip() for item in value.split(";") if item.strip()] if isinstance(value, str) else value


StringList = Annotated[list[str], BeforeValidator(_split)]
IntList = Annotated[list[int], BeforeValidator(_split)]
Share = Annotated[float, Field(ge=0, le=1)]
Letter = Literal["A", "B", "C", "D"]


def option(default: Any, description: str, *, result: bool = True, **limits: Any) -> Any:
    """A pydantic field; `result=False` marks what the result of a stage does not depend on."""
    return Field(default, description=description, json_schema_extra={"result": result}, **limits)


class StorageOptions(Section):
    """Where object stores are found; the root itself is `--root`."""

    endpoint: str | None = option(None, "URL of a server that speaks S3's API; AWS where absent", result=False)
    region: str | None = option(None, "region of the bucket", result=False)
    profile: str | None = option(None, "profile of the shared AWS configuration", result=False)


class RayOptions(Section):
    """How Ray is started where no cluster is given by RAY_ADDRESS."""

    num_cpus: int | None = option(None, "CPUs to use; all of the machine where absent", result=False, ge=1)
    dashboard: bool = option(
        True,
        "start Ray's dashboard and print its address; without it, what fits one process starts no Ray",
        result=False,
    )
    dashboard_port: int | None = option(
        None, "its port; 8265 or the next free one where absent", result=False, ge=1, le=65535
    )


class WorldOptions(Section):
    """The generated world: posts whose truth is known."""

    posts: int = option(4000, "posts to generate", ge=1)
    images: bool = option(True, "draw pictures; false writes images/ rows with face counts and no bytes")
    serve: bool = option(False, "serve the pictures on loopback until interrupted", result=False)
    port: int = option(8471, "port of the local server", ge=1, le=65535)
    intercept: float = option(0.40, "a of log10(1+likes) = a + b·log10(1+followers) + c·hashtags + effect + noise")
    followers: float = option(0.50, "b, per tenfold followers")
    hashtags: float = option(0.012, "c, per hashtag")
    effect: float = option(0.30, "standard deviation of the pictures' effect on log10(1+likes)", ge=0)
    noise: float = option(0.30, "standard deviation of what the picture does not explain", ge=0)
    misbehave: Share = option(0.0, "share of pictures that the server answers badly (404, 429, 500, slow, broken …)")


class CollectOptions(Section):
    """Collecting posts by hashtag, and revisiting each after seven days (paper, section 3)."""

    source: Literal["mastodon"] = option("mastodon", "the kind of public feed")
    instance: str = option("https://mastodon.social", "base URL of the server that answers")
    hashtag: str = option("selfie", "the tag, without #")
    posts: int = option(1000, "posts to collect at most", ge=1)
    revisit: bool = option(False, "revisit the collected posts and write posts/, instead of collecting")
    revisit_days: float = option(7.0, "days between a post's collection and its revisit", ge=0)
    wait: bool = option(False, "wait until each revisit is due, instead of saying when and ending", result=False)
    requests_per_second: float = option(1.0, "requests to the instance, a second", gt=0, result=False)
    contact: str | None = option(None, "address or page shown in the User-Agent", result=False)


class ColumnOptions(Section):
    """Names of the input's columns where they differ from raypipe's."""

    post_id: str = option("post_id", "unique name of the post")
    image_url: str = option("image_url", "where the picture is")
    user_id: str = option("user_id", "who posted")
    likes: str = option("likes", "likes at the revisit")
    followers: str = option("followers", "followers of the user")
    comments: str = option("comments", "number of comments")
    caption: str = option("caption", "the text; hashtags are counted from it where n_hashtags is absent")
    n_hashtags: str = option("n_hashtags", "number of hashtags")
    created_at: str = option("created_at", "when it was posted")
    collected_at: str = option("collected_at", "when it was first seen")
    revisited_at: str = option("revisited_at", "when likes were read")
    deleted: str = option("deleted", "whether it was gone at the revisit")


class IngestOptions(Section):
    """Reading posts and fetching their pictures."""

    fetch: bool = option(True, "fetch pictures; false only reads and checks the posts")
    retry: Annotated[list[FailedStatus], BeforeValidator(_split)] = option(
        [], "ask again for the pictures of a complete images/ that have these statuses", result=False
    )
    robots: bool = option(False, "honour robots.txt and X-Robots-Tag: noindex, noai, noimageai")
    fetchers: int | None = option(None, "fetch actors; one a machine where absent", ge=1, result=False)
    fan_out: int = option(256, "requests at a time in one fetch actor", ge=1, result=False)
    per_host: int = option(16, "requests at a time to one host, over all fetch actors", ge=1, result=False)
    per_host_rate: float | None = option(
        None, "requests a second to one host, over all fetch actors; unlimited where absent", result=False, gt=0
    )
    attempts: int = option(3, "tries for what is worth trying again (429, 5xx, timeouts, resets)", ge=1, result=False)
    connect_timeout: float = option(10.0, "seconds to connect", gt=0, result=False)
    read_timeout: float = option(20.0, "seconds without a byte", gt=0, result=False)
    deadline: float = option(60.0, "seconds for one whole request", gt=0, result=False)
    max_wait: float = option(
        300.0,
        "seconds of a host's Retry-After that are waited out at most; its pictures are rate_limited beyond",
        ge=0,
        result=False,
    )
    max_bytes: int = option(20_000_000, "bytes of one picture at most", ge=1)
    max_pixels: int = option(50_000_000, "pixels of one picture at most, read from its header", ge=1)
    max_redirects: int = option(3, "redirects to follow; each target's address is checked", ge=0)
    allow_private: bool = option(False, "allow loopback and private addresses")
    allow_ports: IntList = option([], "ports to allow besides 80, 443, 8080, 8443")
    user_agent: str = option("raypipe/{version}{contact}", "User-Agent header", result=False)
    contact: str | None = option(
        None, "address or page shown in the User-Agent, so that hosts can reach you", result=False
    )
    phash: bool | None = option(
        None, "decode each picture for its perceptual hash; where absent, if faces are counted (it is decoded then)"
    )
    near: int = option(
        4,
        "bits of 64 in which the perceptual hashes of near duplicates differ at most; 0: only equal hashes",
        ge=0,
        le=12,
    )
    block_rows: int = option(
        256, "pictures whose faces are counted and that are staged together: what a kill can cost", ge=1, result=False
    )
    file_mb: int = option(128, "megabytes of a data file, about", ge=1, result=False)


class FaceOptions(Section):
    """dlib's frontal face detector (paper, section 3)."""

    enabled: bool = option(True, "count faces")
    only: bool = option(False, "count faces again in the pictures that are stored; nothing is fetched", result=False)
    detector: Literal["hog", "cnn"] = option("hog", "dlib's HOG detector (the paper's), or its CNN with `model`")
    model: str | None = option(None, "dlib model file (mmod, .dat) of the detector cnn")
    upsample: int = option(
        1, "doublings of the picture before detection; each finds faces half as large at 4x the cost", ge=0, le=3
    )
    max_side: int = option(
        1024, "larger pictures are shrunk to this many pixels a side before detection; twice as many cost 4x", ge=64
    )
    workers: int | None = option(None, "detection tasks at a time; the machine's CPUs where absent", ge=1, result=False)


class ExportOptions(Section):
    """Pictures and labels in the formats that other trainers read."""

    format: Literal["webdataset", "folder", "hf"] = option(
        "webdataset", "tar shards, folders by split and label, or Parquet for Hugging Face datasets"
    )
    name: str | None = option(None, "folder under export/; the format's name where absent")
    shard_mb: int = option(256, "megabytes of a shard, about", ge=1)


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
    formulas: Annotated[list[str], BeforeValidator(_split_formulas)] = option(
        [], "formulas to compare with label.formula, as a;b; the paper's outlook where absent"
    )


class TrainOptions(Section):
    """Fine-tuning VGG-16 (paper, section 5)."""

    config: Letter = option("A", "the paper's configuration")
    name: str | None = option(None, "folder under train/; the configuration's letter where absent")
    weights: str = option(
        "auto", "imagenet, imagenet-caffe, random, auto, or the path of a .h5, .pth or .safetensors file"
    )
    fresh_fc: bool = option(False, "start C's and D's FC layers fresh where the weights have none")
    init: Literal["lsuv", "he", "glorot"] = option("lsuv", "initialisation of random convolutions")
    form: Literal["paper", "modern"] = option("paper", "the paper's recipe or today's")
    image_size: int = option(224, "pixels of a side", ge=32)
    epochs: int | dict[Letter, int] = option(
        {"A": 12, "B": 9, "C": 8, "D": 20}, "epochs, one number or one a configuration"
    )
    batch_size: int = option(32, "pictures in a step, over all workers", ge=1)
    learning_rate: float | dict[Letter, float] = option(0.001, "of SGD, one number or one a configuration")
    flips: bool = option(True, "random horizontal flips")
    patience: int | None = option(
        None, "epochs without a better validation accuracy (loss, for the scheme continuous) before stopping", ge=1
    )
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "arithmetic; auto: bfloat16 where the hardware has it"
    )
    workers: int = option(1, "data-parallel workers of one trial; results do not depend on it", ge=1, result=False)
    gpu: bool | None = option(None, "use GPUs; where absent, if the cluster has any", result=False)
    max_failures: int = option(2, "lost workers or nodes that a trial survives", ge=0, result=False)
    save: Literal["all", "best", "winner", "none"] = option(
        "all", "checkpoints to keep: last and best of each trial, best of each, best of all, none", result=False
    )

    @field_validator("epochs")
    @classmethod
    def _positive(cls, value: int | dict[str, int]) -> int | dict[str, int]:
        if any(number < 1 for number in (value.values() if isinstance(value, dict) else [value])):
            raise ValueError("epochs must be 1 or more")
        return value


class SweepOptions(Section):
    """Configurations and seeds as Ray Tune trials (paper, table 1)."""

    configs: Annotated[list[Letter], BeforeValidator(_split)] = option(
        ["A", "B", "C", "D"], "configurations to train", min_length=1
    )
    seeds: int = option(1, "seeds of each configuration", ge=1)
    concurrent: int | None = option(
        None, "trials at a time; as many as the hardware allows where absent", ge=1, result=False
    )


class PredictOptions(Section):
    """Applying a trained model."""

    model: str | None = option(
        None, "a train/NAME or sweep trial folder or a checkpoint file; the sweep's best where absent"
    )
    inputs: StringList = option([], "pictures, folders, or manifests: CSV, JSONL or Parquet with a column path")
    name: str = option("default", "folder under predict/")


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
    participant: str = option("", "name written beside the answers")
    port: int = option(8472, "port of the page on loopback", ge=1, le=65535, result=False)


class Config(Section):
    """All options of a run."""

    root: str = option("run", "directory or URI (s3://, gs://) that holds all tables of the run", result=False)
    seed: int = option(0, "seed of everything random", ge=0)
    posts: str | None = option(None, "posts to ingest: a Parquet, CSV or JSONL file or directory")
    limit: int | None = option(None, "read this many posts at most", ge=1)
    overwrite: bool = option(False, "replace results of another configuration or input", result=False)
    debug: bool = option(False, "show tracebacks", result=False)
    storage: StorageOptions = StorageOptions()
    ray: RayOptions = RayOptions()
    world: WorldOptions = WorldOptions()
    collect: CollectOptions = CollectOptions()
    columns: ColumnOptions = ColumnOptions()
    ingest: IngestOptions = IngestOptions()
    faces: FaceOptions = FaceOptions()
    label: LabelOptions = LabelOptions()
    judge: JudgeOptions = JudgeOptions()
    train: TrainOptions = TrainOptions()
    sweep: SweepOptions = SweepOptions()
    predict: PredictOptions = PredictOptions()
    report: ReportOptions = ReportOptions()
    study: StudyOptions = StudyOptions()
    export: ExportOptions = ExportOptions()
    board: BoardOptions = BoardOptions()

    def open_storage(self) -> Storage:
        """The storage of `root`."""
        return Storage(self.root, self.storage.endpoint, self.storage.region, self.storage.profile)

    def result_options(self, *names: str) -> dict[str, Any]:
        """The options that a stage's result depends on, of the named sections or top-level options, as JSON types."""
        return {name: _result_part(getattr(self, name)) for name in names}


def _result_part(value: Any) -> Any:
    if not isinstance(value, Section):
        return value
    fields = type(value).model_fields
    kept = {name for name, info in fields.items() if (info.json_schema_extra or {}).get("result", True)}  # type: ignore[union-attr]
    return value.model_dump(mode="json", include=kept)
