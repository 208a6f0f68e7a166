"""The record of a run, and the differences between two runs."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.tables import find_record
from raypipe.tables.record import Claim, RunRecord, differences, revision_options, versions
from raypipe.tables.schemas import SCHEMA_VERSION
from tests.hostile import LEADS_OUT

OPTIONS = st.dictionaries(st.text("abc", min_size=1), st.none() | st.integers() | st.text("xy"), max_size=3)
CONFIGS = st.dictionaries(st.text("defg", min_size=1), OPTIONS | st.integers(), max_size=3)


def make_record(**changes: Any) -> RunRecord:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    values: dict[str, Any] = {
        "run_id": "0123abcd",
        "table": "labels",
        "command": "label",
        "config": {"seed": 0, "label": {"quantile": 0.1, "column": None}},
        "inputs": {"posts": "aa"},
        "versions": versions(),
        "host": "here",
        "started_at": now,
        "finished_at": now,
        "rows_in": 3,
        "rows_out": 2,
        "dropped": {"faces": 1},
        "seconds": {"fit": 0.25},
        "facts": {"nobs": 2},
        "files": [{"path": "part-0.parquet", "rows": 2, "n_bytes": 10}, {"path": "_model.json", "n_bytes": 4}],
    }
    return RunRecord.model_validate(values | changes)


def test_record_json_round_trip() -> None:
    record = make_record()
    assert RunRecord.model_validate_json(record.model_dump_json()) == record
    assert json.loads(record.model_dump_json())["files"][1] == {"path": "_model.json", "rows": None, "n_bytes": 4}


def test_versions_include_main_packages() -> None:
    found = versions()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"raypipe", "ray", "torch", "dlib-bin", "pyarrow"} <= set(found)


@pytest.mark.parametrize(
    ("config", "inputs", "expected"),
    [
        ({"seed": 0, "label": {"quantile": 0.1, "column": None}}, {"posts": "aa"}, []),
        ({"seed": 1, "label": {"quantile": 0.1}}, {"posts": "aa"}, ["seed was 0, is 1"]),
        ({"seed": 0, "label": {"quantile": 0.2}}, {"posts": "aa"}, ["label.quantile was 0.1, is 0.2"]),
        ({"seed": 0, "label": {"quantile": 0.1}}, {"posts": "bb"}, ["input posts has changed"]),
        (
            {"seed": 0, "label": {"quantile": 0.1}},
            {"posts": "aa", "images": "c"},
            ["input images has changed"],
        ),
        ({"seed": 2, "label": {}}, {}, ["label.quantile was 0.1", "seed was 0, is 2", "input posts has changed"]),
    ],
)
def test_differing_options_are_named(config: dict[str, Any], inputs: dict[str, str], expected: list[str]) -> None:
    found = differences(make_record(), config, inputs)
    for phrase in expected:
        assert any(line.startswith(phrase) for line in found), found
    assert bool(found) == bool(expected)


@given(config=CONFIGS, other=CONFIGS)
def test_differences_are_found_only_between_different_runs(config: dict[str, Any], other: dict[str, Any]) -> None:
    record = make_record(config=config, inputs={})
    assert differences(record, config, {}) == []

    def told(value: dict[str, Any]) -> dict[str, Any]:
        # A missing option and a null option are equal.
        return {
            (key, inner): item
            for key, section in value.items()
            for inner, item in (section.items() if isinstance(section, dict) else [("", section)])
            if item is not None
        }

    empty = any(section == {} for value in (config, other) for section in value.values())
    if not empty:
        assert bool(differences(record, other, {})) == (told(config) != told(other))


def test_option_newer_than_the_table_differs_unless_default() -> None:
    older = make_record(config={"label": {"quantile": 0.1}})
    assert (
        differences(older, {"label": {"quantile": 0.1, "classes": 4}, "train": {"epochs": {"A": 12}}}, older.inputs)
        == []
    )
    newer = {"label": {"quantile": 0.1, "classes": 5}}
    assert differences(older, newer, older.inputs) == ["label.classes was 4, is 5"]


def test_table_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    record = make_record(schema_version=SCHEMA_VERSION + 1)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "_run.json").write_text(record.model_dump_json())
    with pytest.raises(StageError, match=r"labels/_run\.json: has format 2 of a newer raypipe.*; update raypipe"):
        find_record(Storage(str(tmp_path)), "labels")


def test_own_claim_is_not_held_by_other() -> None:
    claim = Claim.new("label", {}, {}, "id")
    assert claim.pid == os.getpid()
    assert not claim.is_held_by_other()


def test_claim_is_held_while_its_process_lives() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(process.pid).create_time()
    claim = Claim.new("label", {}, {}).model_copy(update={"pid": process.pid, "process_started": started})
    assert claim.is_held_by_other()
    # A later process with the same pid does not hold the claim.
    assert not claim.model_copy(update={"process_started": started - 60}).is_held_by_other()
    assert not claim.model_copy(update={"host": "another-machine"}).is_held_by_other()
    process.communicate(b"\n", timeout=20)
    assert not claim.is_held_by_other()


@pytest.mark.parametrize("path", [*LEADS_OUT, "", "a//b", "a/./b", "a\0b"])
def test_record_refuses_files_outside_root(path: str) -> None:
    with pytest.raises(ValueError, match="must be a path below the root"):
        make_record(files=[{"path": path, "n_bytes": 1}])
    with pytest.raises(ValueError, match="must be a path below the root"):
        make_record(table=path)


@pytest.mark.parametrize("run_id", ["..", "../x", "a/b", "a.b", "é"])
def test_record_refuses_run_id_with_path(run_id: str) -> None:
    with pytest.raises(ValueError, match="must contain only letters, digits"):
        make_record(run_id=run_id)
    with pytest.raises(ValueError, match="must contain only letters, digits"):
        Claim.new("label", {}, {}, run_id=run_id)


def test_repeated_options_are_quoted_for_the_shell() -> None:
    assert revision_options({"ingest.retry": ["gone", "dns"], "faces.only": True}) == (
        "--ingest.retry gone,dns --faces.only true"
    )
    assert shlex.split(revision_options({"a.b; rm x": "$(y) 'z'"})) == ["--a.b; rm x", "$(y) 'z'"]
