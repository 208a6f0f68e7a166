"""Each stage's record is shown unchanged, in the order in which the stages ran."""

from __future__ import annotations

from typing import Any

import pytest

from raypipe.report.provenance import build, flatten, shared_versions
from raypipe.tables.root_tables import RootTables
from tests.report.root import Built


def test_records_are_shown_in_finishing_order(shared: Built) -> None:
    root_tables = RootTables.open(shared.storage)
    stages = build(root_tables)
    assert [stage.table for stage in stages] == ["posts", "truth", "images", "labels", "sweep"]
    for stage in stages:
        record = root_tables.records[stage.table]
        assert stage.run_id == record.run_id
        assert stage.command == f"raypipe {record.command}"
        assert stage.steps == {"work": 1.25}
        assert stage.facts == {"pictures": "7"}
        assert stage.n_bytes == sum(file.n_bytes for file in record.files)


def test_shared_versions_are_equal_in_all_stages(shared: Built) -> None:
    stages = build(RootTables.open(shared.storage))
    assert shared_versions(stages) == stages[0].versions
    stages[1].versions.update(torch="0.0")
    assert "torch" not in shared_versions(stages)
    assert shared_versions([]) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (True, "true"), (12_345, "12,345"), (0.001, "0.001"), ([1, 2], "1, 2"), ({}, "–"), ("x", "x")],
)
def test_values_are_shown_readably(value: Any, text: str) -> None:
    assert flatten({"section": {"option": value}}) == {"section.option": text}
