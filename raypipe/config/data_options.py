"""Options of storage, Ray, doctor and export, and of the stages up to the pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from raypipe.config.base import FailedStatus, IntList, LocalFolder, Name, Section, Share, option, split_list


class StorageOptions(Section):
    """Access to object stores, and the scratch folder. `--root` names the store itself."""

    endpoint: str | None = option(None, "URL of a server with S3's API; default: AWS", result=False)
    region: str | None = option(None, "region of the bucket", result=False)
    profile: str | None = option(None, "profile in the AWS configuration files", result=False)
    scratch: LocalFolder | None = option(
        None,
        "directory, on a disk of each machine, for a private folder of temporary copies (pictures of an object store, "
        "checkpoints before upload); default: the user's cache directory",
        result=False,
    )
    scratch_gb: float = option(
        50.0, "maximum gigabytes of the private folder; the oldest unused files are deleted first", result=False, gt=0
    )


class RayOptions(Section):
    """How Ray starts on this machine, if RAY_ADDRESS names no cluster."""

    num_cpus: int | None = option(None, "CPUs to use; default: all of the machine", result=False, ge=1)
    dashboard: bool | None = option(
        None,
        "start Ray's dashboard and print its address; default: only if the stage uses Ray; true also starts Ray",
        result=False,
    )
    dashboard_port: int | None = option(
        None, "port of the dashboard; default: 8265, or the next free port", result=False, ge=1, le=65535
    )


class DoctorOptions(Section):
    """Checks beyond those that every stage needs."""

    ray: bool = option(False, "start Ray, or connect to the cluster at RAY_ADDRESS, and run a task", result=False)


class WorldOptions(Section):
    """A generated world of posts with known truth."""

    posts: int = option(4000, "posts to generate", ge=1)
    images: bool = option(True, "draw pictures; false writes images/ with face counts but without pictures")
    serve: bool = option(False, "serve the pictures on this machine until interrupted", result=False)
    port: int = option(8471, "port of the local server", ge=1, le=65535)
    intercept: float = option(0.40, "a of log10(1+likes) = a + b·log10(1+followers) + c·hashtags + effect + noise")
    followers: float = option(0.50, "b, the effect of ten times as many followers")
    hashtags: float = option(0.012, "c, the effect of one more hashtag")
    effect: float = option(0.30, "standard deviation of a picture's effect on log10(1+likes)", ge=0)
    noise: float = option(0.30, "standard deviation of the rest, which the picture does not explain", ge=0)
    misbehave: Share = option(0.0, "share of pictures for which the server fails (404, 429, 500, slow, broken …)")


class CollectOptions(Section):
    """Collect posts by hashtag, and revisit each after seven days (paper, section 3)."""

    source: Literal["mastodon"] = option("mastodon", "kind of server")
    instance: str = option("https://mastodon.social", "base URL of the server")
    hashtag: str = option("selfie", "hashtag, without #")
    posts: int = option(1000, "maximum number of posts to collect", ge=1)
    revisit: bool = option(False, "revisit the collected posts and write posts/; collect nothing new")
    revisit_days: float = option(7.0, "days from the collection of a post to its revisit", ge=0)
    wait: bool = option(False, "wait until each revisit is due; false: print the time and end", result=False)
    requests_per_second: float = option(1.0, "maximum requests per second to the server", gt=0, result=False)
    contact: str | None = option(None, "e-mail address or page in the User-Agent", result=False)


class ColumnOptions(Section):
    """Names of the input's columns, if they differ from raypipe's names."""

    post_id: str = option("post_id", "unique id of the post")
    image_url: str = option("image_url", "URL of the picture")
    user_id: str = option("user_id", "id of the author")
    likes: str = option("likes", "number of likes at the revisit")
    followers: str = option("followers", "number of the author's followers")
    comments: str = option("comments", "number of comments")
    caption: str = option("caption", "text of the post; its hashtags are counted if n_hashtags is missing")
    n_hashtags: str = option("n_hashtags", "number of hashtags")
    created_at: str = option("created_at", "time of the post")
    collected_at: str = option("collected_at", "time at which the post was first read")
    revisited_at: str = option("revisited_at", "time at which the likes were read")
    deleted: str = option("deleted", "true if the post was deleted before the revisit")


class IngestOptions(Section):
    """Check posts and fetch their pictures."""

    fetch: bool = option(True, "fetch pictures; false only checks the posts")
    retry: Annotated[list[FailedStatus], BeforeValidator(split_list)] = option(
        [], "fetch again those pictures of a complete images/ that have one of these statuses", result=False
    )
    robots: bool = option(False, "obey robots.txt and X-Robots-Tag: noindex, noai, noimageai")
    fetchers: int | None = option(None, "number of fetch actors; default: one per machine", ge=1, result=False)
    fan_out: int = option(256, "simultaneous requests of one fetch actor", ge=1, result=False)
    per_host: int = option(16, "simultaneous requests to one host, of all fetch actors together", ge=1, result=False)
    per_host_rate: float | None = option(
        None, "requests per second to one host, of all fetch actors together; default: unlimited", result=False, gt=0
    )
    attempts: int = option(
        3, "requests per picture, if errors may be temporary (429, 5xx, timeouts, resets)", ge=1, result=False
    )
    connect_timeout: float = option(10.0, "maximum seconds to connect", gt=0, result=False)
    read_timeout: float = option(20.0, "maximum seconds without a byte", gt=0, result=False)
    deadline: float = option(60.0, "maximum seconds for one whole request", gt=0, result=False)
    max_wait: float = option(
        300.0,
        "longest Retry-After of a host to wait for, in seconds; above it, the host's pictures are rate_limited",
        ge=0,
        result=False,
    )
    max_bytes: int = option(20_000_000, "maximum bytes of one picture", ge=1)
    max_pixels: int = option(50_000_000, "maximum pixels of one picture, read from its header", ge=1)
    max_redirects: int = option(3, "maximum redirects to follow; the address of each target is checked", ge=0)
    allow_private: bool = option(False, "allow loopback and private addresses")
    allow_ports: IntList = option([], "ports to allow besides 80, 443, 8080, 8443")
    user_agent: str = option("raypipe/{version}{contact}", "User-Agent header", result=False)
    contact: str | None = option(
        None, "e-mail address or page in the User-Agent, so that hosts can reach you", result=False
    )
    phash: bool | None = option(
        None, "decode each picture and store its perceptual hash; default: only if faces are counted"
    )
    near: int = option(
        4,
        "near duplicates: perceptual hashes that differ in at most so many of 64 bits; 0: only equal hashes",
        ge=0,
        le=12,
    )
    block_rows: int = option(
        256, "pictures per unit of work; a killed run loses at most the units in progress", ge=1, result=False
    )
    file_mb: int = option(128, "approximate megabytes of a data file", ge=1, result=False)


class FaceOptions(Section):
    """dlib's frontal face detector (paper, section 3)."""

    enabled: bool = option(True, "count faces")
    only: bool = option(False, "count faces again in the stored pictures; fetch nothing", result=False)
    detector: Literal["hog", "cnn"] = option("hog", "dlib's HOG detector (the paper's), or its CNN (with faces.model)")
    model: str | None = option(None, "dlib model file (mmod, .dat) of the CNN")
    upsample: int = option(
        1, "double the picture so many times first; each time finds faces half as large at 4x the cost", ge=0, le=3
    )
    max_side: int = option(
        1024, "maximum pixels per side; larger pictures are shrunk before detection; twice as many cost 4x", ge=64
    )
    workers: int | None = option(None, "simultaneous detection tasks; default: the number of CPUs", ge=1, result=False)


class ExportOptions(Section):
    """Pictures and labels in the formats of other trainers, or a trained model with its card."""

    format: Literal["webdataset", "folder", "hf", "model"] = option(
        "webdataset",
        "tar shards, folders by split and label, Parquet for Hugging Face datasets, or a trained model with its card",
    )
    name: Name | None = option(None, "folder under export/; default: the name of the format")
    shard_mb: int = option(256, "approximate megabytes of a shard", ge=1)
    model: str | None = option(
        None, "for the format model: train/NAME, sweep/TRIAL, or a checkpoint file; default: the best of the sweep"
    )
    onnx: bool | None = option(
        None, "for the format model: also write model.onnx; default: if onnx, onnxscript and onnxruntime are installed"
    )
    check: int = option(
        256, "for the format model: maximum number of validation pictures on which the files are checked", ge=1
    )
