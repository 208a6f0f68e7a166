"""Runs that redo part of a complete table: the old table is kept until they are complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage
from tests.table_runs import CONFIG, begin, complete, everything_under, ids_of, interrupt

RETRY = {"of": "0123abcd", "ingest.retry": ["timeout", "dns"]}
FACES = {"of": "0123abcd", "faces.only": True}


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.mark.parametrize("config", [CONFIG, {"seed": 7}])
def test_revision_replaces_table_of_any_configuration(storage: Storage, config: dict[str, Any]) -> None:
    complete(storage, "a", "b")
    with begin(storage, config=config, revision=RETRY) as run:
        assert run.record is None
        assert not run.resumed
        run.writer.write("00000", tables.read_table(storage, "labels"))
        assert ids_of(storage) == ["a", "b"]
        record = run.commit(rows_in=2)
    assert (record.config, record.revision) == (config, RETRY)
    assert ids_of(storage) == ["a", "b"]
    assert sorted(storage.files("labels")) == sorted([record.files[0].path, "_run.json"])
    # A plain run with the same options finds the table complete. Other options are refused.
    assert begin(storage, config=config).record == record
    with pytest.raises(StageError, match="has the result of another configuration"):
        begin(storage, config={"seed": 8})


def test_interrupted_revision_is_resumed(storage: Storage) -> None:
    complete(storage, "a")
    first = interrupt(storage, "new", revision=RETRY)
    assert ids_of(storage) == ["a"]
    with begin(storage, revision=dict(reversed(RETRY.items()))) as again:
        assert again.resumed
        assert again.writer.run_id == first.writer.run_id
        assert again.writer.units_done() == {"00000"}
        again.commit(rows_in=1)
    assert ids_of(storage) == ["new"]


@pytest.mark.parametrize(
    ("before", "changes", "says"),
    [
        (
            RETRY,
            {"revision": {**RETRY, "ingest.retry": ["dns"]}},
            r"ingest\.retry was \['timeout', 'dns'\], is \['dns'\]",
        ),
        (RETRY, {"revision": {**RETRY, "of": "4567cdef"}}, "of was '0123abcd', is '4567cdef'"),
        (RETRY, {"revision": RETRY, "config": {}}, "label.quantile was 0.1, is None"),
        (RETRY, {"revision": FACES}, "faces.only was None, is True"),
        (None, {"revision": FACES}, r"it was the whole table, is a part \(--faces\.only true\)"),
        (
            RETRY,
            {},
            r"an unfinished run that redoes a part \(--ingest\.retry timeout,dns\); finish it with "
            r"`raypipe label --ingest\.retry timeout,dns`, or redo the whole table with --overwrite",
        ),
        (RETRY, {"config": {"seed": 9}}, "finish it with `raypipe label --ingest.retry timeout,dns`"),
    ],
)
def test_another_unfinished_run_is_refused(
    storage: Storage, before: dict[str, Any] | None, changes: dict[str, Any], says: str
) -> None:
    complete(storage, "a")
    if before:
        interrupt(storage, "new", revision=before)
    else:
        interrupt(storage, "new", overwrite=True)
    contents = everything_under(storage)
    with pytest.raises(StageError, match=says) as caught:
        begin(storage, **changes)
    assert "\n" not in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert everything_under(storage) == contents


def test_overwrite_drops_unfinished_revision_and_keeps_table(storage: Storage) -> None:
    complete(storage, "a")
    interrupt(storage, "half", revision=RETRY)
    with begin(storage, overwrite=True) as whole:
        assert not whole.resumed
        assert whole.writer.units_done() == set()
        assert ids_of(storage) == ["a"]
    interrupted = [name for name in storage.files("labels") if "_staging" in name]
    assert interrupted == []
    with begin(storage, revision=FACES, overwrite=True) as part:
        assert not part.resumed
        assert ids_of(storage) == ["a"]


def test_revision_without_staged_files_leaves_nothing(storage: Storage) -> None:
    complete(storage, "a")
    before = everything_under(storage)
    with pytest.raises(ValueError), begin(storage, revision=RETRY):
        raise ValueError("found late")
    assert everything_under(storage) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_revision_needs_a_complete_table(storage: Storage, overwrite: bool) -> None:
    with pytest.raises(StageError, match=r"labels: does not exist; run `raypipe label"):
        begin(storage, revision=RETRY, overwrite=overwrite)
    assert everything_under(storage) == {}
    interrupt(storage, "a")
    with pytest.raises(StageError, match=r"is unfinished; run|it was the whole table, is a part"):
        begin(storage, revision=RETRY, overwrite=overwrite)
    with begin(storage) as run:
        assert run.writer.units_done() == {"00000"}


def test_empty_revision_equals_no_revision(storage: Storage) -> None:
    record = complete(storage, "a", revision={})
    assert record.revision is None
    assert begin(storage).record == record


def test_finish_completes_interrupted_publication(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    complete(storage, "a")
    assert not tables.finish_commit(storage, "labels")
    with begin(storage, revision=RETRY) as run, monkeypatch.context() as patch:
        run.writer.write("00000", tables.read_table(storage, "labels"))
        patch.setattr(Storage, "move", killed)
        with pytest.raises(KeyboardInterrupt):
            run.commit(rows_in=1)
    assert tables.find_record(storage, "labels") is None
    assert tables.finish_commit(storage, "labels")
    assert tables.get_record(storage, "labels").revision == RETRY
    assert ids_of(storage) == ["a"]
    assert not tables.finish_commit(storage, "labels")


def test_finish_does_not_change_unfinished_or_empty_tables(storage: Storage) -> None:
    assert not tables.finish_commit(storage, "labels")
    assert everything_under(storage) == {}
    interrupt(storage, "half")
    before = everything_under(storage)
    assert not tables.finish_commit(storage, "labels")
    assert everything_under(storage) == before
