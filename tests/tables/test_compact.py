"""Merging staged parts keeps all rows in fewer files, even if it is killed at any moment."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.tables import compact as parts

ID = pa.schema([("post_id", pa.string())])
MB = 2**20


@pytest.fixture
def writer(tmp_path: Path) -> TableWriter:
    return TableWriter(Storage(str(tmp_path / "root")), "images", "0123abcd")


@pytest.fixture
def s3_writer(s3_endpoint: str, request: pytest.FixtureRequest) -> TableWriter:
    root = f"s3://bucket/{request.node.name}"
    return TableWriter(Storage(root, endpoint=s3_endpoint, region="us-east-1"), "images", "0123abcd")


def stage(writer: TableWriter, *groups: list[str], seconds: float | None = None) -> list[str]:
    """Stage one part per group of ids. Returns the names of the parts."""
    for number, ids in enumerate(groups):
        images = pa.array([name.encode() * 100 for name in ids], pa.binary())
        table = pa.table({"post_id": pa.array(ids, pa.string()), "image": images})
        if seconds is not None:
            table = table.replace_schema_metadata({parts.SECONDS_KEY: json.dumps({"fetch": seconds, "write": 1.0})})
        writer.write(f"{number:05d}", table)
    return [writer.part_name(f"{number:05d}") for number in range(len(groups))]


def ids(writer: TableWriter) -> list[str]:
    return parts.read_parts(writer, ID)["post_id"].to_pylist()


def metadata(writer: TableWriter, name: str) -> dict[bytes, bytes]:
    path = writer.storage.path(writer.staging, name)
    return pq.read_metadata(path, filesystem=writer.storage.filesystem).metadata


def check_merge(writer: TableWriter) -> None:
    names = stage(writer, ["a", "b"], ["c"], [], ["d", "e"], seconds=1.5)
    merged = parts.merge(writer, names[1:])
    assert writer.storage.files(writer.staging) == sorted([names[0], merged])
    assert parts.staged_parts(writer) == [names[0], merged]
    assert ids(writer) == ["a", "b", "c", "d", "e"]
    assert json.loads(metadata(writer, merged)[parts.SECONDS_KEY]) == {"fetch": 4.5, "write": 3.0}
    assert json.loads(metadata(writer, merged)[b"raypipe.merged"]) == names[1:]
    assert "00001" in next(unit for unit in writer.units_done() if unit != "00000")


def test_merged_file_holds_rows_in_order(writer: TableWriter) -> None:
    check_merge(writer)


@pytest.mark.cluster
def test_merging_works_on_s3(s3_writer: TableWriter) -> None:
    check_merge(s3_writer)


def test_merged_file_has_same_encodings_as_parts(writer: TableWriter) -> None:
    names = stage(writer, ["a", "b"], ["c"])
    merged = parts.merge(writer, names)
    file = pq.ParquetFile(writer.storage.path(writer.staging, merged))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 1]
    image = file.metadata.row_group(0).column(1)
    assert (image.path_in_schema, image.compression, image.is_stats_set) == ("image", "UNCOMPRESSED", False)
    assert file.metadata.row_group(0).column(0).is_stats_set


def test_files_in_other_folders_are_not_merged(writer: TableWriter) -> None:
    names = stage(writer, ["a"], ["b"])
    writer.write("all", pa.table({"group": [1]}), folder="_duplicates")
    writer.write_file("_model.json", b"{}")
    assert parts.staged_parts(writer) == names
    assert parts.merge_groups(writer, MB) == [names]
    assert ids(writer) == ["a", "b"]


def test_no_parts_give_empty_table_with_columns(writer: TableWriter) -> None:
    assert parts.read_parts(writer, ID).schema == ID
    assert parts.staged_parts(writer) == []
    assert parts.merge_groups(writer, MB) == []
    assert parts.delete_merged_sources(writer) == []


# Kills at any moment


class KilledError(BaseException):
    pass


def kill_at_delete(patch: pytest.MonkeyPatch, number: int) -> None:
    left = iter(range(number, -1, -1))
    delete = Storage.delete

    def dying(self: Storage, path: str) -> None:
        if next(left) == 0:
            raise KilledError
        delete(self, path)

    patch.setattr(Storage, "delete", dying)


@pytest.mark.parametrize("killed_at", [0, 1, 2])
@pytest.mark.parametrize("goes_on", ["settle", "merge"])
def test_sources_left_by_kill_are_ignored_and_deleted(
    writer: TableWriter, monkeypatch: pytest.MonkeyPatch, killed_at: int, goes_on: str
) -> None:
    names = stage(writer, ["a"], ["b"], ["c"])
    with monkeypatch.context() as patch:
        kill_at_delete(patch, killed_at)
        with pytest.raises(KilledError):
            parts.merge(writer, names)
    assert len(writer.storage.files(writer.staging)) == 4 - killed_at
    merged = parts.merged_name(writer, names)
    assert parts.staged_parts(writer) == [merged]
    assert ids(writer) == ["a", "b", "c"]
    assert parts.merge_groups(writer, MB) == []
    if goes_on == "settle":
        assert parts.delete_merged_sources(writer) == names[killed_at:]
    else:
        assert parts.merge(writer, names) == merged
    assert writer.storage.files(writer.staging) == [merged]
    assert parts.delete_merged_sources(writer) == []


def test_sources_stay_known_after_second_merge(writer: TableWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    names = stage(writer, ["a"], ["b"], ["c"], seconds=1.0)
    with monkeypatch.context() as patch:
        kill_at_delete(patch, 0)
        with pytest.raises(KilledError):
            parts.merge(writer, names[:2])
    first = parts.merged_name(writer, names[:2])
    second = parts.merge(writer, [first, names[2]])
    assert writer.storage.exists(f"{writer.staging}/{names[0]}")
    assert parts.staged_parts(writer) == [second]
    assert ids(writer) == ["a", "b", "c"]
    assert json.loads(metadata(writer, second)[parts.SECONDS_KEY])["fetch"] == 3.0
    assert parts.delete_merged_sources(writer) == names[:2]
    assert second != first


def test_rewritten_file_still_names_its_sources(writer: TableWriter) -> None:
    names = stage(writer, ["a"], ["b"], seconds=2.0)
    merged = parts.merge(writer, names)
    rows = pq.read_table(writer.storage.path(writer.staging, merged))
    before = metadata(writer, merged)
    writer.rewrite(merged, rows.slice(1))
    after = metadata(writer, merged)
    assert ids(writer) == ["b"]
    assert {key: after[key] for key in (parts.SECONDS_KEY, b"raypipe.merged")} == {
        key: before[key] for key in (parts.SECONDS_KEY, b"raypipe.merged")
    }
    stage(writer, ["a"])
    assert parts.staged_parts(writer) == [merged]


def test_parallel_processes_may_do_same_merge(writer: TableWriter) -> None:
    names = stage(writer, *([f"{n}"] for n in range(40)))
    program = (
        "import pickle, sys\nfrom raypipe.tables import compact as parts\n"
        "writer, names = pickle.load(sys.stdin.buffer)\nprint(parts.merge(writer, names))\n"
    )
    sent = pickle.dumps((writer, names))
    running = [subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1) for _ in range(3)]
    for process in running:
        assert process.stdin is not None
        process.stdin.write(sent)
        process.stdin.close()
    said = [process.stdout.read().decode().strip() for process in running if process.stdout]
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    assert said == [parts.merged_name(writer, names)] * 3
    assert ids(writer) == [f"{n}" for n in range(40)]


def test_merge_already_done_by_another_process(writer: TableWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    names = stage(writer, ["a"], ["b"])
    write = parts._write

    def overtaken(*arguments: Any) -> None:
        monkeypatch.undo()
        parts.merge(writer, names)
        write(*arguments)

    monkeypatch.setattr(parts, "_write", overtaken)
    assert parts.merge(writer, names) == parts.merged_name(writer, names)
    assert writer.storage.files(writer.staging) == [parts.merged_name(writer, names)]
    assert ids(writer) == ["a", "b"]


def test_missing_source_raises_error(writer: TableWriter) -> None:
    names = stage(writer, ["a"], ["b"])
    writer.storage.delete(f"{writer.staging}/{names[0]}")
    with pytest.raises(StageError, match=r"00000\.parquet: cannot read: "):
        parts.merge(writer, names)
    assert writer.storage.files(writer.staging) == names[1:]


def test_parts_of_different_columns_are_not_merged(writer: TableWriter) -> None:
    names = stage(writer, ["a"], ["b"])
    writer.write("00001", pa.table({"post_id": ["b"]}))
    with pytest.raises(StageError, match=r"00001\.parquet: has other columns than part-.*00000\.parquet"):
        parts.merge(writer, names)
    assert ids(writer) == ["a", "b"]


def test_merge_holds_one_row_group_in_memory(writer: TableWriter) -> None:
    """A separate process merges 40 MB in parts of 1 MB and prints the peak of pyarrow's memory."""
    group = pa.table({"post_id": ["x"] * 10, "image": [bytes(100_000)] * 10})
    for number in range(40):
        writer.write(f"{number:05d}", group)
    program = (
        "import pickle, sys, pyarrow as pa\nfrom raypipe.tables import compact as parts\n"
        "writer = pickle.load(sys.stdin.buffer)\nparts.merge(writer, parts.staged_parts(writer))\n"
        "print(pa.default_memory_pool().max_memory())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(writer), capture_output=True, timeout=60)
    assert len(ids(writer)) == 400
    assert int(done.stdout) < 10 * MB


# Choice of the parts to merge

SIZES = st.lists(st.integers(1, 49) | st.integers(1, 150), max_size=30)


def named(sizes: list[int]) -> dict[str, int]:
    return {f"{number:03d}": size for number, size in enumerate(sizes)}


@given(sizes=SIZES)
def test_merge_groups_are_neighbours_near_target_size(sizes: list[int]) -> None:
    by_name = named(sizes)
    groups = parts.group_adjacent(by_name, 100)
    names = sorted(by_name)
    for group in groups:
        first = names.index(group[0])
        assert len(group) > 1
        assert group == names[first : first + len(group)]
        assert sum(by_name[name] for name in group) <= 125
        assert all(by_name[name] < 50 for name in group)
    flat = [name for group in groups for name in group]
    assert len(flat) == len(set(flat))


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=40))
def test_merged_files_reach_three_quarters_of_target(sizes: list[int]) -> None:
    by_name = named(sizes)
    groups = parts.group_adjacent(by_name, 100)
    totals = [sum(by_name[name] for name in group) for group in groups]
    assert all(total > 75 for total in totals[:-1])
    left = len(sizes) - sum(map(len, groups))
    assert left <= 1


@given(sizes=SIZES, data=st.data())
def test_remaining_merge_plan_is_stable(sizes: list[int], data: Any) -> None:
    by_name = named(sizes)
    plan = parts.group_adjacent(by_name, 100)
    done = data.draw(st.lists(st.sampled_from(range(len(plan))), unique=True)) if plan else []
    after = dict(by_name)
    for number in done:
        after[f"{plan[number][0]}-m"] = sum(after.pop(name) for name in plan[number])
    assert parts.group_adjacent(after, 100) == [group for number, group in enumerate(plan) if number not in done]
