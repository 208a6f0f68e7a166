"""Parquet files with values made by code: the code never runs, and the stored values are read."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import InputError
from raypipe.ingest.posts import ingest_posts
from raypipe.ingest.staged_rows import drop_duplicate_rows
from raypipe.label.blocks import divide_into_blocks
from raypipe.predict.inputs import find_pictures
from raypipe.runtime import set_environment
from raypipe.storage import Storage
from raypipe.tables.root_tables import RootTables
from raypipe.tables.untrusted import open_parquet, plain_schema, plain_table, read_parquet

PICKLED = {b"ARROW:extension:name": b"ray.data.arrow_pickled_object", b"ARROW:extension:metadata": b""}


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.fixture(scope="module", autouse=True)
def _ray_data() -> None:
    """Import Ray Data, which registers the type whose values are unpickled."""
    set_environment()
    import ray.data  # noqa: F401


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """A file that must not exist at the end of the test."""
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists()


def planted(marker: Path, name: str, n: int, kind: pa.DataType | None = None) -> tuple[pa.Field, pa.Array]:
    """A column of pickled Python objects, as stored in a file."""
    values = pa.array([pickle.dumps(Planted(marker))] * n, kind or pa.large_binary())
    return pa.field(name, values.type, metadata=PICKLED), values


def with_planted(table: pa.Table, marker: Path, name: str) -> pa.Table:
    field, values = planted(marker, name, len(table))
    return table.drop_columns([name] if name in table.column_names else []).append_column(field, values)


def test_planted_column_executes_code_if_read_unguarded(tmp_path: Path) -> None:
    path = tmp_path / "planted.parquet"
    pq.write_table(with_planted(pa.table({"x": [1]}), tmp_path / "ran", "label"), path)
    pq.read_table(path)["label"].to_pylist()
    assert (tmp_path / "ran").exists()


def test_hostile_posts_file_executes_no_code(tmp_path: Path, marker: Path) -> None:
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
    with pytest.raises(InputError, match="column for caption: values of type large_binary cannot be converted"):
        ingest_posts(config.model_copy(update={"overwrite": True}))


def test_hostile_manifest_executes_no_code(tmp_path: Path, marker: Path) -> None:
    pq.write_table(with_planted(pa.table({"path": ["a.jpg"]}), marker, "other"), tmp_path / "list.parquet")
    found = find_pictures([str(tmp_path / "list.parquet")], Storage(str(tmp_path)))
    assert [picture.path for picture in found.pictures] == [str(tmp_path / "a.jpg")]


def put(config: Config, table: str, rows: pa.Table) -> Storage:
    storage = config.open_storage()
    with tables.begin(storage, table, command="label", config={}, inputs={}, overwrite=True) as run:
        run.writer.write("000000", rows)
        run.commit(rows_in=len(rows), rows_out=len(rows))
    return storage


def test_hostile_root_executes_no_code(tmp_path: Path, marker: Path) -> None:
    rows = with_planted(pa.table({"post_id": ["a", "b"]}), marker, "label")
    storage = put(load_config(root=str(tmp_path / "run")), "labels", rows)
    readers: list[Callable[[], pa.Table]] = [
        lambda: tables.read_table(storage, "labels"),
        lambda: tables.read_table(storage, "labels", ["label"]),
        lambda: tables.open_dataset(storage, "labels").to_table(),
        lambda: tables.open_dataset(storage, "labels").head(1),
        lambda: divide_into_blocks(storage, "labels")[0].read(storage, ["post_id", "label"]),
    ]
    for read in readers:
        found = read()
        assert found["label"].type == pa.large_binary()
        assert found.to_pandas()["label"].notna().all()
        assert all(isinstance(value, bytes) for value in found["label"].to_pylist())


def test_hostile_pictures_of_a_root_execute_no_code(tmp_path: Path, marker: Path) -> None:
    rows = with_planted(pa.table({"post_id": ["a", "b"]}), marker, "image")
    storage = put(load_config(root=str(tmp_path / "run")), "images", rows)
    found = RootTables.open(storage).pictures(["a", "b"])
    assert all(isinstance(image, bytes) for image in found.values())
    assert not marker.exists()


def i32(*values: int) -> pa.Array:
    return pa.array(values, pa.int32())


def i64(*values: int) -> pa.Array:
    return pa.array(values, pa.int64())


# Arrays of two rows with one value each, by the kind of nesting.
NESTED: dict[str, Callable[[pa.Array], pa.Array]] = {
    "alone": lambda values: values,
    "list": lambda values: pa.ListArray.from_arrays(i32(0, 1, 2), values),
    "large list": lambda values: pa.LargeListArray.from_arrays(i64(0, 1, 2), values),
    "fixed-size list": lambda values: pa.FixedSizeListArray.from_arrays(values, 1),
    "list view": lambda values: pa.ListViewArray.from_arrays(i32(0, 1), i32(1, 1), values),
    "large list view": lambda values: pa.LargeListViewArray.from_arrays(i64(0, 1), i64(1, 1), values),
    "struct": lambda values: pa.StructArray.from_arrays([values], ["a"]),
    "map": lambda values: pa.MapArray.from_arrays(i32(0, 1, 2), pa.array(["a", "b"]), values),
    "dictionary": lambda values: pa.DictionaryArray.from_arrays(i32(0, 1), values),
    "runs": lambda values: pa.RunEndEncodedArray.from_arrays(i32(1, 2), values),
    "dense union": lambda values: pa.UnionArray.from_dense(pa.array([0, 0], pa.int8()), i32(0, 1), [values]),
    "sparse union": lambda values: pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [values]),
    "opaque": lambda values: pa.ExtensionArray.from_storage(pa.opaque(values.type, "t", "v"), values),
}
# Types that Arrow cannot convert to their storage type.
REFUSED = {"list view", "large list view", "runs", "dense union", "sparse union"}
# Types that Parquet cannot store.
NOT_IN_PARQUET = {"dictionary", "runs", "dense union", "sparse union"}


def made_by_code(marker: Path) -> pa.Array:
    """Two values of the unpickled type. Unpickling them creates the marker."""
    field, values = planted(marker, "x", 2)
    made = pa.ipc.open_stream(_sent(pa.table([values], schema=pa.schema([field])))).read_all()["x"].chunk(0)
    assert isinstance(made.type, pa.ExtensionType)
    return made


def nested_in(outer: str, values: pa.Array) -> pa.Array:
    """`values` in an array of the kind `outer`. "struct in list" is a list of structs."""
    for name in outer.split(" in "):
        values = NESTED[name](values)
    return values


@pytest.mark.parametrize("outer", [*NESTED, "struct in list", "list view in struct", "struct in list view in list"])
def test_every_nested_pickled_type_is_removed_or_refused(marker: Path, outer: str) -> None:
    table = pa.table({"x": nested_in(outer, made_by_code(marker))})
    if REFUSED & set(outer.split(" in ")):
        for look in (lambda: plain_schema(table.schema, "a file"), lambda: plain_table(table, "a file")):
            with pytest.raises(InputError, match=r"a file: column x: type .* can run code, so it is not read") as error:
                look()
            assert "\n" not in str(error.value)
        return
    assert "pickled" not in str(plain_schema(table.schema, "a file"))
    found = plain_table(table, "a file")
    assert found.schema == plain_schema(table.schema, "a file")
    assert str(pickle.dumps(Planted(marker))) in str(found.to_pylist())


@pytest.mark.parametrize("outer", [name for name in NESTED if name not in NOT_IN_PARQUET])
def test_file_with_pickled_type_is_read_safely(tmp_path: Path, marker: Path, outer: str) -> None:
    path = str(tmp_path / "x.parquet")
    pq.write_table(pa.table({"x": nested_in(outer, made_by_code(marker))}), path)
    here = pafs.LocalFileSystem()
    readers: list[Callable[[], pa.Table]] = [
        lambda: read_parquet(path, here),
        lambda: open_parquet([path], here).to_table(),
        lambda: open_parquet([path], here).head(1),
    ]
    for read in readers:
        if outer in REFUSED:
            with pytest.raises(InputError, match=f"{path}: column x: type .* can run code, so it is not read"):
                read()
        else:
            assert str(pickle.dumps(Planted(marker))) in str(read().to_pylist())


def test_posts_with_such_a_type_are_refused(tmp_path: Path, marker: Path) -> None:
    posts = {"post_id": ["a", "b"], "image_url": ["http://h/a"] * 2, "likes": [1, 2], "followers": [1, 2]}
    pq.write_table(pa.table({**posts, "x": nested_in("list view", made_by_code(marker))}), tmp_path / "posts.parquet")
    config = load_config(root=str(tmp_path / "run"), posts=str(tmp_path / "posts.parquet"))
    with pytest.raises(InputError, match=r"posts.parquet: column x: type .* can run code, so it is not read"):
        ingest_posts(config)


def test_hostile_staged_rows_execute_no_code(tmp_path: Path, marker: Path) -> None:
    storage = load_config(root=str(tmp_path / "run")).open_storage()
    ids = pa.array([pickle.dumps(Planted(marker), 0)] * 2, pa.large_binary())
    rows = pa.table([ids], schema=pa.schema([pa.field("post_id", ids.type, metadata=PICKLED)]))
    with tables.begin(storage, "images", command="ingest", config={}, inputs={}, overwrite=True) as run:
        run.writer.write("000000", rows)
        assert drop_duplicate_rows(run.writer, n_posts=1) == 0


def test_other_types_are_unchanged() -> None:
    table = pa.table({"x": pa.array([[1, 2]]), "y": [{"a": 1}], "z": pa.array([b"0" * 16], pa.binary(16))})
    assert plain_table(table, "a file") is table
    # Arrow's own extension types run no foreign code.
    own = pa.schema([("id", pa.uuid()), ("x", pa.list_view(pa.int8())), ("y", pa.opaque(pa.int8(), "t", "v"))])
    assert plain_schema(own, "a file") == own


def test_too_deeply_nested_types_are_refused() -> None:
    kind = pa.int8()
    for _ in range(2000):
        kind = pa.list_(kind)
    with pytest.raises(InputError, match="a file: its columns are nested too deeply"):
        plain_schema(pa.schema([("x", kind)]), "a file")


def _sent(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
