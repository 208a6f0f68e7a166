"""Tests of the study use the report's root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.root import Built, build_root


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """A root for this test only."""
    return build_root(tmp_path / "root")
