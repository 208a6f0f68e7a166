"""The complete root of the report's tests, for tests of reading a root."""

from __future__ import annotations

from tests.report.conftest import built

__all__ = ["built"]
