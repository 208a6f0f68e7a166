"""Each allowed `collect.source` has its module."""

from __future__ import annotations

from typing import get_args

from raypipe.collect.sources import SOURCES
from raypipe.config.data_options import CollectOptions


def test_each_source_option_has_a_module() -> None:
    assert tuple(SOURCES) == get_args(CollectOptions.model_fields["source"].annotation)


def test_paths_escape_ids_from_servers() -> None:
    for source in SOURCES.values():
        assert "/../" not in source.post_path("../../x")
        assert "?" not in source.timeline_path("a?b")
