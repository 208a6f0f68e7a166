from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.storage.scratch import Scratch


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """A folder of 3,100 bytes: three sets of 1,000, whose bookkeeping has a few bytes of its own."""
    return Scratch(str(tmp_path / "disk"), max_gb=3_100e-9)
