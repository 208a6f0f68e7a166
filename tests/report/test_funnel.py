"""The funnel is counted from the tables, step by step."""

from __future__ import annotations

import pytest

from raypipe.config import Config
from raypipe.report import funnel
from raypipe.statistics import paper
from raypipe.tables.root_tables import RootTables
from tests.report.root import Built, make_world, write_posts


def test_funnel_steps_decrease_and_add_up(shared: Built) -> None:
    found = funnel.build(RootTables.open(shared.storage))
    counts = [step.count for step in found.steps]
    assert counts == sorted(counts, reverse=True)
    assert found.count(funnel.COLLECTED) == 1205
    assert found.count(funnel.LABELLED) == sum(found.splits.values()) == shared.labels["label"].notna().sum()
    for step, before in zip(found.steps[1:], found.steps, strict=False):
        assert step.kept == pytest.approx(step.count / before.count)
        assert step.share == pytest.approx(step.count / 1205)


def test_paper_counts_match_their_steps(shared: Built) -> None:
    found = {step.name: step for step in funnel.build(RootTables.open(shared.storage)).steps}
    assert found[funnel.ONE_FACE].paper == 200_545
    assert found[funnel.LABELLED].paper_share == pytest.approx(40_109 / 486_149)
    assert found[funnel.FETCHED].paper is None
    assert paper.COLLECTED - paper.PRESENT == 56_966


def test_every_dropped_row_and_every_status_is_counted(shared: Built) -> None:
    found = funnel.build(RootTables.open(shared.storage))
    assert [(item.stage, item.reason, item.rows) for item in found.dropped[:2]] == [
        ("posts", "negative_likes", 3),
        ("posts", "duplicate_post_id", 2),
    ]
    for balance in found.balances:
        assert balance.rows_in == balance.rows_out + balance.dropped
    assert {status.name: status.count for status in found.statuses} == {
        name: shared.status.count(name) for name in set(shared.status)
    }
    assert found.requests == sum(state != "deleted" for state in shared.status)


def test_steps_without_tables_are_left_out(config: Config) -> None:
    posts, _ = make_world()
    write_posts(config.open_storage(), posts)
    found = funnel.build(RootTables.open(config.open_storage()))
    assert [step.name for step in found.steps] == [funnel.COLLECTED, funnel.PRESENT]
    assert found.statuses == []
    assert found.requests is None
