"""Options of storage, Ray, doctor and export, and of the stages up to the pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from raypipe.config.base import FailedStatus, IntList, LocalFolder, Name, Section, Share, option, split_list


class StorageOptions(Section):
    """Where object stores are found; the root itself is `--root`."""

    endpoint: str | None = option(None, "URL of a server that speaks S3's API; AWS where absent", result=False)
    region: str | None = option(None, "region of the bucket", result=False)
    profile: str | None = option(None, "profile of the shared AWS configuration", result=False)
    scratch: LocalFolder | None = option(
        None,
        "directory for a private folder of files that can be made again (copies of an object store's, checkpoints on "
        "their way), on a disk of each machine; the user's cache directory where absent",
        result=False,
    )
    scratch_gb: float = option(
        50.0, "gigabytes of the private folder at most; what was used longest ago goes first", result=False, gt=0
    )


class RayOptions(Section):
    """How Ray is started where no cluster is given by RAY_ADDRESS."""

    num_cpus: int | None = option(None, "CPUs to use; all of the machine where absent", result=False, ge=1)
    dashboard: bool | None = option(
        None,
        "Ray's dashboard, whose address is printed; where absent, if Ray runs anyway; true asks for Ray",
        result=False,
    )
    dashboard_port: int | None = option(
        None, "its port; 8265 or the next free one where absent", result=False, ge=1, le=65535
    )


class DoctorOptions(Section):
    """What is checked besides what every stage needs."""

    ray: bool = option(False, "start Ray, or join the cluster of RAY_ADDRESS, and run a task", result=False)


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
    retry: Annotated[list[FailedStatus], BeforeValidator(split_list)] = option(
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
    """Pictures and labels in the formats that other trainers read, or a trained model for those who use it."""

    format: Literal["webdataset", "folder", "hf", "model"] = option(
        "webdataset",
        "tar shards, folders by split and label, Parquet for Hugging Face datasets, or a trained model with its card",
    )
    name: Name | None = option(None, "folder under export/; the format's name where absent")
    shard_mb: int = option(256, "megabytes of a shard, about", ge=1)
    model: str | None = option(
        None, "of the format model: a train/NAME, sweep/TRIAL or a checkpoint file; the sweep's best where absent"
    )
    onnx: bool | None = option(
        None, "of the format model: write model.onnx too; where absent, if onnx, onnxscript, onnxruntime are installed"
    )
    check: int = option(
        256, "of the format model: validation pictures on which the files are compared with the model, at most", ge=1
    )
