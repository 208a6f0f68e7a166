"""What a run writes about itself: ``_run.json`` when it is complete, ``_claim.json`` while it is not."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Self

import psutil
from pydantic import BaseModel, Field

from raypipe.schemas import SCHEMA_VERSION


class DataFile(BaseModel):
    """One file of a complete stage: its path relative to the table, rows (Parquet only) and bytes."""

    path: str
    rows: int | None = None
    n_bytes: int


class RunRecord(BaseModel):
    """``_run.json``: what was run, on what, and what came of it."""

    schema_version: int = SCHEMA_VERSION
    run_id: str
    table: str
    command: str
    config: dict[str, Any]
    fingerprint: str = ""
    inputs: dict[str, str]
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
    run_id: str
    command: str
    config: dict[str, Any]
    inputs: dict[str, str]
    started_at: datetime
    host: str
    pid: int
    process_started: float

    def held_by_other(self) -> bool:
        """Whether another process of this machine still works under this claim."""
        if self.host != socket.gethostname() or self.pid == os.getpid():
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.process_started) < 1.0)
        except psutil.Error:
            return False

    @classmethod
    def new(cls, command: str, config: dict[str, Any], inputs: dict[str, str], run_id: str = "") -> Self:
        """A claim of this process."""
        return cls(
            run_id=run_id,
            command=command,
            config=config,
            inputs=inputs,
            started_at=datetime.now(UTC),
            host=socket.gethostname(),
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
        )


def fingerprint(config: dict[str, Any]) -> str:
    """SHA-256 of the options that a result depends on, whatever their order."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def differences(found: RunRecord | Claim, config: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    """What sets a run apart from a wanted configuration and input, a phrase each, by dotted option name."""

    def flat(value: Any, prefix: str = "") -> dict[str, Any]:
        if isinstance(value, dict) and (value or not prefix):
            return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}{key}.").items()}
        return {prefix.rstrip("."): value}

    then, now = flat(found.config), flat(config)
    lines = [
        f"{key} was {then.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(then | now)
        if then.get(key) != now.get(key)
    ]
    changed = [name for name in sorted(found.inputs | inputs) if found.inputs.get(name) != inputs.get(name)]
    return lines + [f"input {name} has changed" for name in changed]


def versions() -> dict[str, str]:
    """Versions of Python, raypipe and what a result depends on."""
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
