"""The measured commands, and what they stored: how many pictures, and how many with the bytes that were served."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

_Options = dict[str, str | int | bool]
_COMMON: _Options = {"resize_mode": "no", "output_format": "parquet", "enable_wandb": False, "timeout": 60}
IMG2DATASET: dict[str, _Options] = {
    # No other options. It decodes each picture, encodes it again as JPEG, and reads the EXIF data.
    "img2dataset": _COMMON,
    # Bytes as served. Each picture is decoded once, to check it and for its size.
    "img2dataset_checked": {**_COMMON, "skip_reencode": True, "extract_exif": False},
    # Bytes as served, without a check. This is the least work that it can do.
    "img2dataset_blind": {**_COMMON, "disable_all_reencoding": True, "extract_exif": False},
}
"""Three ways to run img2dataset, with their options. All store the SHA-256 of each picture, as raypipe does."""


WAYS = ("defaults", "tuned", "on_ray")
"""Ways to run raypipe. `defaults`: only the options that loopback needs, as a user runs it. `tuned`: the number of
requests at a time is chosen for the server. `on_ray`: as `tuned`, on Ray with its dashboard.
"""


def ways(text: str) -> list[str]:
    """An option that lists some of WAYS. Raises ValueError if one is unknown."""
    found = text.split(",")
    if unknown := set(found) - set(WAYS):
        raise ValueError(f"{', '.join(sorted(unknown))}: allowed are {', '.join(WAYS)}")
    return found


@dataclass(frozen=True)
class Stored:
    """What a run stored: rows by status, and the number of pictures with the SHA-256 of the served file."""

    statuses: dict[str, int]
    same_bytes: int


def raypipe(
    posts: Path,
    root: Path,
    ports: Sequence[int],
    *,
    per_host: int,
    fan_out: int,
    more: str = "",
    faces: bool = False,
    way: str = "defaults",
) -> list[str]:
    """The command `raypipe ingest` for posts on loopback, in one of WAYS. `more` is appended."""
    words = ["ingest", "--posts", str(posts), "--root", str(root)]
    words += ["--ingest.allow_private", "--ingest.allow_ports", ",".join(map(str, ports))]
    if not faces:
        words += ["--faces.enabled", "false"]
    if way != "defaults":
        words += ["--ingest.per_host", str(per_host), "--ingest.fan_out", str(fan_out)]
    if way == "on_ray":
        words += ["--ray.dashboard", "true"]
    return [sys.executable, "-m", "raypipe", *words, *shlex.split(more)]


def img2dataset(
    program: Path, way: str, posts: Path, output: Path, *, threads: int, processes: int, per_shard: int
) -> list[str]:
    """img2dataset's command, in one of the ways of `IMG2DATASET`."""
    given = {
        "url_list": posts,
        "input_format": "parquet",
        "url_col": "image_url",
        "output_folder": output,
        "processes_count": processes,
        "thread_count": threads,
        "number_sample_per_shard": per_shard,
        **IMG2DATASET[way],
    }
    return [str(program), *(f"--{name}={value}" for name, value in given.items())]


def img2dataset_version(program: Path) -> str:
    """img2dataset's version. Raises FileNotFoundError, or CalledProcessError if its environment does not have it."""
    code = "import importlib.metadata as m; print(m.version('img2dataset'))"
    done = subprocess.run([program.parent / "python", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def stored_by_raypipe(root: Path, digests: dict[str, str]) -> Stored:
    """Read `images/`."""
    return _stored(root / "images", {"url": "url", "status": "status", "bytes": "image"}, digests)


def stored_by_img2dataset(output: Path, digests: dict[str, str]) -> Stored:
    """Read the shards."""
    return _stored(output, {"url": "url", "status": "status", "bytes": "jpg"}, digests)


def stored_by_plain_ray(output: Path, digests: dict[str, str]) -> Stored:
    """Read what `plain_ray` wrote."""
    return _stored(output, {"url": "image_url", "status": "status", "bytes": "image"}, digests)


def record_of(root: Path) -> dict[str, Any]:
    """The seconds and facts that raypipe recorded in `images/_run.json`."""
    found = json.loads((root / "images" / "_run.json").read_text())
    return {"seconds": found["seconds"], "facts": found["facts"]}


def when_fetched(root: Path, urls: Sequence[str] | None = None) -> list[float]:
    """When pictures with status ok were fetched, in seconds since the epoch, sorted; only those of `urls` if given."""
    table = pads.dataset(root / "images", format="parquet").to_table(["fetched_at", "status", "url"])
    table = table.filter(pc.equal(table["status"], "ok"))
    if urls is not None:
        table = table.filter(pc.is_in(table["url"], pa.array(urls)))
    return sorted(number / 1e6 for number in table["fetched_at"].cast("int64").to_pylist())


def statuses_by_host(root: Path) -> dict[str, dict[str, int]]:
    """The number of rows of `images/` by host and status."""
    table = pads.dataset(root / "images", format="parquet").to_table(["host", "status"])
    found: dict[str, dict[str, int]] = {}
    for row in table.group_by(["host", "status"]).aggregate([([], "count_all")]).sort_by("host").to_pylist():
        found.setdefault(row["host"], {})[row["status"]] = row["count_all"]
    return found


def clear(*folders: Path) -> None:
    """Remove output, so that the next run starts from nothing."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _stored(folder: Path, names: dict[str, str], digests: dict[str, str]) -> Stored:
    statuses: Counter[str] = Counter()
    same = 0
    # pyarrow itself skips files whose names begin with an underscore.
    data = pads.dataset(folder, format="parquet", exclude_invalid_files=True)
    for batch in data.to_batches(columns=list(names.values()), batch_size=500):
        columns = {key: batch[name] for key, name in names.items()}
        statuses.update(columns["status"].to_pylist())
        for url, picture in zip(columns["url"].to_pylist(), columns["bytes"], strict=True):
            if picture.is_valid:
                path = "/".join(url.split("/")[-2:])
                same += hashlib.sha256(picture.as_buffer()).hexdigest() == digests.get(path)
    return Stored(dict(statuses.most_common()), same)
