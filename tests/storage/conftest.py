from __future__ import annotations

from pathlib import Path

import pytest

from raypipe.storage.scratch import Scratch


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    """A scratch folder with a limit of 3,100 bytes: three sets of 1,000 bytes and their bookkeeping."""
    return Scratch(str(tmp_path / "disk"), max_gb=3_100e-9)
