"""The study's tests work on the report's root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.root import Built, build_root


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """A root of this test's own."""
    return build_root(tmp_path / "root")
