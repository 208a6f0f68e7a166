"""Rows in files, mapped or read in pieces: equal rows in any order, from a disk and from an object store."""

from __future__ import annotations

import itertools
import pickle
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import StageError
from raypipe.storage import Storage
from raypipe.storage.scratch import NoRoomError, Scratch
from raypipe.train.data.mapped_rows import MappedRows, map_if_room
from raypipe.train.data.npy_rows import NpyRows, fits_on_machine, local_folder, to_npy

ROWS = np.random.default_rng(0).integers(0, 256, (11, 3, 4, 4)).astype(np.uint8)
# Row i of the shards is row ORDER[i] of ROWS. ROWS is cut into files of 4, 0 and 7 rows.
ORDER = np.array([8, 0, 3, 10, 1, 4])
CUTS = (0, 4, 4, 11)


def write(storage: Storage, rows: np.ndarray = ROWS, dtype: str = "uint8") -> NpyRows:
    for number, (start, stop) in enumerate(itertools.pairwise(CUTS)):
        storage.write(f"rows/{number}.npy", to_npy(rows[start:stop]))
    shard = np.searchsorted(CUTS[1:], ORDER, side="right")
    place = ORDER - np.array(CUTS)[shard]
    return NpyRows(storage, "rows", ("0.npy", "1.npy", "2.npy"), shard, place, rows.shape[1:], dtype)


@pytest.fixture
def shards(tmp_path: Path) -> NpyRows:
    return write(Storage(str(tmp_path)))


@pytest.fixture
def s3_root(s3_endpoint: str, tmp_path: Path) -> Storage:
    root = f"s3://bucket/{uuid.uuid4().hex}"
    # Room for one copy of the rows and its bookkeeping, but not for two.
    return Storage(root, s3_endpoint, "us-east-1", scratch=Scratch(str(tmp_path / "scratch"), 1_000e-9))


@settings(max_examples=30)
@given(picked=st.lists(st.integers(0, len(ORDER) - 1), max_size=20))
def test_rows_are_returned_in_requested_order(tmp_path_factory: pytest.TempPathFactory, picked: list[int]) -> None:
    shards = write(Storage(str(tmp_path_factory.getbasetemp() / "shards")))
    rows = np.array(picked, np.int64)
    mapped = MappedRows(shards)
    assert mapped.shape == (6, 3, 4, 4)
    assert mapped.dtype == torch.uint8
    np.testing.assert_array_equal(mapped[torch.from_numpy(rows)].numpy(), ROWS[ORDER[rows]])
    np.testing.assert_array_equal(shards.read(rows), ROWS[ORDER[rows]])


def test_slice_is_a_copy_in_order(shards: NpyRows) -> None:
    mapped = MappedRows(shards)
    found = mapped[1:4]
    np.testing.assert_array_equal(found.numpy(), ROWS[ORDER[1:4]])
    found.zero_()
    np.testing.assert_array_equal(mapped[:].numpy(), ROWS[ORDER])


def test_bfloat16_is_stored_exactly(tmp_path: Path) -> None:
    values = torch.randn(11, 5, generator=torch.Generator().manual_seed(0)).bfloat16()
    mapped = MappedRows(write(Storage(str(tmp_path)), values.view(torch.uint16).numpy(), "uint16"))
    assert mapped.dtype == torch.bfloat16
    assert torch.equal(mapped[:], values[torch.from_numpy(ORDER)])


def test_npy_rows_can_be_pickled(shards: NpyRows) -> None:
    other: NpyRows = pickle.loads(pickle.dumps(shards))
    np.testing.assert_array_equal(MappedRows(other)[:].numpy(), ROWS[ORDER])


def test_file_with_wrong_rows_is_named(shards: NpyRows, tmp_path: Path) -> None:
    (tmp_path / "rows/2.npy").write_bytes(to_npy(ROWS[:, :1]))
    with pytest.raises(StageError, match=r"2.npy: has rows uint8 \[1, 4, 4\] instead of uint8 \[3, 4, 4\]; delete"):
        MappedRows(shards)
    (tmp_path / "rows/2.npy").write_bytes(b"cut off")
    with pytest.raises(StageError, match=r"2.npy: is not a file of decoded rows: .*; delete .*rows"):
        MappedRows(shards)
    (tmp_path / "rows/2.npy").unlink()
    with pytest.raises(StageError, match=r"rows/2\.npy: cannot read: it does not exist"):
        shards.read(np.array([0]))


def copies(storage: Storage) -> list[Path]:
    return sorted(storage.scratch.folder().rglob("*.npy"))


def test_npy_rows_in_object_store_are_copied_once(s3_root: Storage) -> None:
    shards = write(s3_root)
    assert fits_on_machine(shards)
    np.testing.assert_array_equal(shards.read(np.arange(6)), ROWS[ORDER])
    assert copies(s3_root) == []
    np.testing.assert_array_equal(MappedRows(shards)[:].numpy(), ROWS[ORDER])
    before = {file: file.stat().st_mtime_ns for file in copies(s3_root)}
    assert [file.name for file in before] == ["0.npy", "1.npy", "2.npy"]
    np.testing.assert_array_equal(MappedRows(pickle.loads(pickle.dumps(shards)))[:].numpy(), ROWS[ORDER])
    assert before == {file: file.stat().st_mtime_ns for file in copies(s3_root)}


@pytest.mark.parametrize("name", ["../planted.npy", "/planted.npy", "a/b.npy", ".hidden.npy", "x", "", None, "0.npy\n"])
def test_file_names_outside_folder_are_refused(tmp_path: Path, name: str) -> None:
    nothing = np.zeros(1, np.int64)
    with pytest.raises(StageError, match="is not a name of a file of rows"):
        NpyRows(Storage(str(tmp_path)), "rows", (name,), nothing, nothing, (3,))


def test_truncated_copy_is_fetched_again(s3_root: Storage) -> None:
    shards = write(s3_root)
    folder, lease = local_folder(shards)
    assert lease is not None
    lease.close()
    (folder / "2.npy").write_bytes(b"")
    np.testing.assert_array_equal(MappedRows(shards)[:].numpy(), ROWS[ORDER])


def test_old_copies_are_removed_unless_in_use(s3_root: Storage) -> None:
    old = write(s3_root)
    for name in ("0.npy", "1.npy", "2.npy"):
        s3_root.write(f"newer/{name}", s3_root.read(f"rows/{name}"))
    new = replace(old, folder="newer")
    mapped = MappedRows(old)
    assert not fits_on_machine(new)
    assert map_if_room(new) is None
    with pytest.raises(NoRoomError, match=r"storage.scratch_gb is 1e-06"):
        MappedRows(new)
    assert len({file.parent for file in copies(s3_root)}) == 1
    del mapped
    assert fits_on_machine(new)
    np.testing.assert_array_equal(MappedRows(new)[:].numpy(), ROWS[ORDER])
    assert len({file.parent for file in copies(s3_root)}) == 1
    assert s3_root.scratch.usage().n_bytes <= s3_root.scratch.max_bytes
