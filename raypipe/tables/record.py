"""The files that describe a run: ``_run.json`` when it is complete, ``_claim.json`` before that."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import posixpath
import shlex
import socket
import string
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import psutil
from pydantic import AfterValidator, BaseModel, Field, ValidationError

from raypipe.config.load import default_of
from raypipe.errors import StageError, one_line
from raypipe.storage import Storage
from raypipe.tables.schemas import SCHEMA_VERSION

Model = TypeVar("Model", bound=BaseModel)


def _inside(path: str) -> str:
    if "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("must be a path below the root, without ..")
    return path


def _run_id(text: str) -> str:
    if not set(text) <= _RUN_ID:
        raise ValueError("must contain only letters, digits, - and _")
    return text


_RUN_ID = frozenset(string.ascii_letters + string.digits + "-_")
PathInside = Annotated[str, AfterValidator(_inside)]
"""A path with ``/`` that stays below its base folder. Records may come from a root that somebody else wrote."""
RunId = Annotated[str, AfterValidator(_run_id)]
"""The id of a run. It is part of paths."""


class DataFile(BaseModel):
    """One file of a complete table: its path relative to the table, its rows (Parquet only) and its bytes."""

    path: PathInside
    rows: int | None = None
    n_bytes: int


class RunRecord(BaseModel):
    """``_run.json``: what was run, its inputs and its results. `revision` is set if it redid a part of a table."""

    schema_version: int = SCHEMA_VERSION
    run_id: RunId
    table: PathInside
    command: str
    config: dict[str, Any]
    fingerprint: str = ""
    inputs: dict[str, str]
    revision: dict[str, Any] | None = None
    versions: dict[str, str]
    host: str
    started_at: datetime
    finished_at: datetime
    rows_in: int
    rows_out: int
    dropped: dict[str, int]
    seconds: dict[str, float]
    facts: dict[str, Any] = Field(default_factory=dict)
    files: list[DataFile]


class Claim(BaseModel):
    """``_claim.json``: what an unfinished run does, and in which process."""

    run_id: RunId
    command: str
    config: dict[str, Any]
    inputs: dict[str, str]
    revision: dict[str, Any] | None = None
    started_at: datetime
    host: str
    pid: int
    process_started: float

    def is_held_by_other(self) -> bool:
        """Whether another process of this machine still holds this claim."""
        if self.host != socket.gethostname() or self.pid == os.getpid():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.process_started) < 1.0)
        except psutil.Error:
            return False

    @classmethod
    def new(
        cls,
        command: str,
        config: dict[str, Any],
        inputs: dict[str, str],
        run_id: str = "",
        revision: dict[str, Any] | None = None,
    ) -> Self:
        """A claim of this process."""
        return cls(
            run_id=run_id,
            command=command,
            config=config,
            inputs=inputs,
            revision=revision,
            started_at=datetime.now(UTC),
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
        )


def fingerprint(config: dict[str, Any]) -> str:
    """SHA-256 of the options that a result depends on. Their order does not matter."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes. Raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(
    found: RunRecord | Claim, config: dict[str, Any], inputs: dict[str, str], revision: dict[str, Any] | None = None
) -> list[str]:
    """The differences between a run and a wanted configuration and inputs, one phrase each, by dotted option name.

    `revision`, the part of a table that a run redoes, is compared for unfinished runs only. A complete table is whole.
    """
    changed = [name for name in sorted(found.inputs | inputs) if found.inputs.get(name) != inputs.get(name)]
    lines = [
        *option_changes(_with_defaults(found.config, config), config),
        *(f"input {name} has changed" for name in changed),
    ]
    if isinstance(found, Claim) and found.revision != revision:
        if found.revision and revision:
            lines += option_changes(found.revision, revision)
        else:
            lines.append(f"it was {_part(found.revision)}, is {_part(revision)}")
    return lines


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and (value or not prefix):
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def option_changes(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two sets of options, one phrase each, by dotted name."""
    then, now = _flat(then), _flat(now)
    return [
        f"{key} was {then.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(then | now)
        if then.get(key) != now.get(key)
    ]


def _with_defaults(then: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """`then`, flat, with the defaults of options that are newer than it. They differ only if they are not at these."""
    return {**{key: default_of(key) for key, value in _flat(now).items() if value is not None}, **_flat(then)}


def _part(revision: dict[str, Any] | None) -> str:
    return f"a part ({revision_options(revision)})" if revision else "the whole table"


def revision_options(revision: dict[str, Any]) -> str:
    """The options of a revision as a user types them: dotted names and their values."""

    def word(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else str(value).replace("True", "true")

    # Quoted for the shell, because a user may paste them, and they may come from somebody else's root.
    return " ".join(f"--{shlex.quote(key)} {shlex.quote(word(value))}" for key, value in revision.items() if "." in key)


def parse_model(storage: Storage, path: str, data: bytes, kind: type[Model]) -> Model:
    """The model that raypipe wrote at `path`, from its bytes. Raises StageError if they are damaged or too new."""
    try:
        found = kind.model_validate_json(data)
    except ValidationError as error:
        raise StageError(
            f"{storage.uri(path)}: is not a valid file of raypipe: {one_line(error)}; "
            f"delete the folder {storage.uri(posixpath.dirname(path))} and run its stage again"
        ) from error
    if isinstance(found, RunRecord) and found.schema_version > SCHEMA_VERSION:
        raise StageError(
            f"{storage.uri(path)}: has format {found.schema_version} of a newer raypipe, this one reads up to "
            f"{SCHEMA_VERSION}; update raypipe"
        )
    return found


def to_json_bytes(model: BaseModel) -> bytes:
    """A model as the JSON bytes that `parse_model` reads."""
    return model.model_dump_json(indent=2).encode()


def finite(value: Any) -> Any:
    """A value for JSON, which has no infinity: numbers that are not finite become None (null)."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions() -> dict[str, str]:
    """Versions of Python, of raypipe and of the packages that a result depends on."""
    names = (
        "raypipe",
        "ray",
        "torch",
        "torchvision",
        "dlib-bin",
        "pyarrow",
        "numpy",
        "statsmodels",
        "formulaic",
        "aiohttp",
        "pillow",
    )
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
