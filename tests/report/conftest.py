"""A complete root for the tests of the report, and a shared one for tests that only read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.root import Built, build_root


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """A root for this test only."""
    return build_root(tmp_path / "root")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A root that no test writes to."""
    return build_root(tmp_path_factory.mktemp("report") / "root")
