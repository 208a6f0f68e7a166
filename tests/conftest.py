"""Fixtures that all tests share: one Ray for the session, the real data where it is at hand, a clean root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.config import Config
from raypipe.options import load_config
from raypipe.runtime import ray_session as start_ray


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data of the project, which is not part of it."""
    given = os.environ.get("RAYPIPE_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "engagement.csv").exists():
        pytest.skip(f"real data absent: {folder} (set RAYPIPE_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests of the session."""
    with start_ray(load_config(ray={"dashboard": False, "num_cpus": 2})):
        yield


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Default options over an empty root."""
    return load_config(root=str(tmp_path / "root"), ray={"dashboard": False, "num_cpus": 2})
