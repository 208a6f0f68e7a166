"""Parquet files that ask for values made by code: nothing of them runs, and they are read as what they store."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.ingest.posts import ingest_posts
from raypipe.label.blocks import plan_blocks
from raypipe.options import load_config
from raypipe.plain import plain_schema, plain_table
from raypipe.predict.inputs import find_pictures
from raypipe.runtime import set_environment
from raypipe.storage import Storage

PICKLED = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}


class Planted:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.fixture(scope="module", autouse=True)
def _ray_data() -> None:
    """Ray Data registers the type whose values are unpickled."""
    set_environment()
    import ray.data  # noqa: F401


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that must not be there in the end."""
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists()


def planted(marker: Path, name: str, n: int, kind: pa.DataType | None = None) -> tuple[pa.Field, pa.Array]:
    """A column of Python objects, as a file stores it."""
    values = pa.array([pickle.dumps(Planted(marker))] * n, kind or pa.large_binary())
    return pa.field(name, values.type, metadata=PICKLED), values


def with_planted(table: pa.Table, marker: Path, name: str) -> pa.Table:
    field, values = planted(marker, name, len(table))
    return table.drop_columns([name] if name in table.column_names else []).append_column(field, values)


def test_the_planted_column_runs_code_where_nothing_is_done_about_it(tmp_path: Path) -> None:
    path = tmp_path / "planted.parquet"
    pq.write_table(with_planted(pa.table({"x": [1]}), tmp_path / "ran", "label"), path)
    pq.read_table(path)["label"].to_pylist()
    assert (tmp_path / "ran").exists()


def test_a_manifest_runs_nothing(tmp_path: Path, marker: Path) -> None:
    posts = pa.table(
        {
            "post_id": ["a", "b", "c"],
            "image_url": ["http://h/a", "http://h/b", "http://h/c"],
            "likes": [1, 2, -3],
            "followers": [1, 2, 3],
        }
    )
    pq.write_table(with_planted(posts, marker, "mine"), tmp_path / "posts.parquet")
    config = load_config(root=str(tmp_path / "run"), posts=str(tmp_path / "posts.parquet"))
    ingest_posts(config)
    storage = config.open_storage()
    assert len(tables.read_table(storage, "posts").to_pylist()) == 2
    assert len(tables.read_table(storage, "posts_rejected").to_pylist()) == 1
    pq.write_table(with_planted(posts, marker, "caption"), tmp_path / "posts.parquet")
    with pytest.raises(InputError, match="column for caption: values of type large_binary cannot be read"):
        ingest_posts(config.model_copy(update={"overwrite": True}))


def test_a_manifest_of_pictures_runs_nothing(tmp_path: Path, marker: Path) -> None:
    pq.write_table(with_planted(pa.table({"path": ["a.jpg"]}), marker, "other"), tmp_path / "list.parquet")
    found = find_pictures([str(tmp_path / "list.parquet")], Storage(str(tmp_path)))
    assert [picture.path for picture in found.pictures] == [str(tmp_path / "a.jpg")]


def put(config: Config, table: str, rows: pa.Table) -> Storage:
    storage = config.open_storage()
    with tables.begin(storage, table, command="label", config={}, inputs={}, overwrite=True) as run:
        run.writer.write("000000", rows)
        run.commit(rows_in=len(rows), rows_out=len(rows))
    return storage


def test_a_root_from_elsewhere_runs_nothing(tmp_path: Path, marker: Path) -> None:
    rows = with_planted(pa.table({"post_id": ["a", "b"]}), marker, "label")
    storage = put(load_config(root=str(tmp_path / "run")), "labels", rows)
    readers: list[Callable[[], pa.Table]] = [
        lambda: tables.read_table(storage, "labels"),
        lambda: tables.read_table(storage, "labels", ["label"]),
        lambda: tables.open_dataset(storage, "labels").to_table(),
        lambda: tables.open_dataset(storage, "labels").head(1),
        lambda: plan_blocks(storage, "labels")[0].read(storage, ["post_id", "label"]),
    ]
    for read in readers:
        found = read()
        assert found["label"].type == pa.large_binary()
        assert found.to_pandas()["label"].notna().all()
        assert all(isinstance(value, bytes) for value in found["label"].to_pylist())


def test_types_that_hold_such_a_type(marker: Path) -> None:
    field, values = planted(marker, "x", 2)
    reader = pa.ipc.open_stream(_sent(pa.table([values], schema=pa.schema([field]))))
    kind = reader.read_all()["x"].type
    assert isinstance(kind, pa.ExtensionType)
    held = [
        pa.list_(kind),
        pa.large_list(kind),
        pa.list_(kind, 2),
        pa.struct([("a", pa.int64()), ("b", pa.list_(kind))]),
        pa.map_(pa.string(), kind),
    ]
    for outer in held:
        schema = plain_schema(pa.schema([("x", outer)]))
        assert "pickled" not in str(schema)
        assert "large_binary" in str(schema)
    table = pa.table({"x": pa.array([[1, 2]]), "y": [{"a": 1}], "z": pa.array([b"0" * 16], pa.binary(16))})
    assert plain_table(table) is table
    # Arrow's own are made by no code from elsewhere.
    own = pa.schema([("id", pa.uuid())])
    assert plain_schema(own) == own


def _sent(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
