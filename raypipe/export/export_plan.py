"""Decides which pictures are exported, to which files, and why others are not, before any picture is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.errors import InputError, StageError
from raypipe.label.split import SIDES
from raypipe.storage import Storage
from raypipe.tables.schemas import LABEL_TYPES

UNLABELLED_SPLIT = "train"
"""The only split of an export without labels. Hugging Face `datasets` refuses a split called ``all``."""

# Bytes per picture for headers, padding and metadata.
_OVERHEAD_BYTES = 4096

LabelKind = Literal["class", "continuous", "hashtags"]


@dataclass(frozen=True)
class ExportPlan:
    """What happens to each of the n rows of `images/`, in the table's order.

    `split_index` is the index of a row's split in `splits`, −1 if the row is dropped. `shard` is its file in the split.
    `label_row` is its row in `labels` (columns label, score), or −1 if it has none. `kind` is None without labels.
    `rows_in` = exported + Σ `dropped`. `n_bytes` is the total size of each split's pictures.
    """

    splits: tuple[str, ...]
    split_index: npt.NDArray[np.int8]
    shard: npt.NDArray[np.int64]
    label_row: npt.NDArray[np.int64]
    labels: pa.Table | None
    kind: LabelKind | None
    classes: tuple[str, ...]
    rows_in: int
    dropped: Counter[str]
    n_bytes: dict[str, int]

    @property
    def is_exported(self) -> npt.NDArray[np.bool_]:
        """Which rows are exported, [n]."""
        return self.split_index >= 0

    @property
    def codes(self) -> dict[str, int]:
        """The number of each class, from 0 in alphabetical order."""
        return {name: code for code, name in enumerate(self.classes)}

    def counts(self) -> dict[str, int]:
        """The number of exported pictures per split."""
        return {name: int((self.split_index == i).sum()) for i, name in enumerate(self.splits)}

    def shard_rows(self, split_index: int) -> list[int]:
        """The number of pictures in each shard of a split."""
        return [int(rows) for rows in np.bincount(self.shard[self.split_index == split_index])]


def make_plan(storage: Storage, *, labelled: bool, shard_bytes: int) -> ExportPlan:
    """Make the plan from `images/` and, if `labelled`, `labels/`. Reads the pictures' sizes, not their bytes.

    A row is dropped for its `status`, or as ``no_bytes`` (nothing is stored), ``not_in_labels``, ``no_label`` or
    ``no_split``. A labelled post without a row counts as ``not_in_images``. Raises InputError if nothing is left or
    a split is not train, val or test. Raises StageError if a post has two rows or the labels' type is unknown.
    """
    images = tables.read_table(storage, "images", ["post_id", "status", "n_bytes"])
    _check_unique(storage, "images", images["post_id"])
    drops = _DropCounter(len(images))
    for status in sorted(pc.unique(images["status"]).to_pylist()):
        if status != "ok":
            drops.add(_mask(pc.equal(images["status"], status)), status)
    drops.add(_mask(pc.is_null(images["n_bytes"])), "no_bytes")
    label_row = np.full(len(images), -1, np.int64)
    labels, kind, rows_in = None, None, len(images)
    classes: tuple[str, ...] = ()
    if labelled:
        rows = tables.read_table(storage, "labels", ["post_id", "label", "score", "split"])
        _check_unique(storage, "labels", rows["post_id"])
        kind, classes = _label_kind(storage, rows["label"])
        place = pc.index_in(images["post_id"], value_set=rows["post_id"].combine_chunks())
        label_row = pc.fill_null(place, -1).to_numpy().astype(np.int64)
        missing = len(rows) - int((label_row >= 0).sum())
        rows_in += missing
        drops.add(label_row < 0, "not_in_labels")
        drops.add(_of_rows(_without_label(rows["label"]), label_row), "no_label")
        drops.add(_of_rows(_mask(pc.is_null(rows["split"])), label_row), "no_split")
        if missing:
            drops.counts["not_in_images"] = missing
        labels = rows.select(["label", "score"])
        splits, split_index = _split_indices(storage, rows["split"], label_row, drops.left)
    else:
        splits, split_index = (UNLABELLED_SPLIT,), np.where(drops.left, 0, -1).astype(np.int8)
    if not drops.left.any():
        raise InputError(f"{storage.uri('images')}: no picture to export: {_in_words(drops.counts)}")
    sizes = pc.fill_null(images["n_bytes"], 0).to_numpy()
    shard = _shards(split_index, sizes + _OVERHEAD_BYTES, len(splits), shard_bytes)
    n_bytes = {name: int(sizes[split_index == i].sum()) for i, name in enumerate(splits)}
    return ExportPlan(splits, split_index, shard, label_row, labels, kind, classes, rows_in, drops.counts, n_bytes)


class _DropCounter:
    """The rows that are left, and the number dropped for each reason. A row counts only for its first reason."""

    def __init__(self, n: int) -> None:
        self.left = np.ones(n, bool)
        self.counts: Counter[str] = Counter()

    def add(self, mask: npt.NDArray[np.bool_], reason: str) -> None:
        out = self.left & mask
        if out.any():
            self.counts[reason] += int(out.sum())
            self.left &= ~out


def _mask(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = pc.fill_null(values, False).to_numpy().astype(bool)
    return found


def _of_rows(mask: npt.NDArray[np.bool_], label_row: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Turns a mask over the labels into one over the images; False for images without a label row."""
    return np.append(mask, False)[label_row]


def _without_label(label: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    known = pc.is_finite(label) if pa.types.is_floating(label.type) else pc.is_valid(label)
    return ~_mask(known)


def _label_kind(storage: Storage, label: pa.ChunkedArray) -> tuple[LabelKind, tuple[str, ...]]:
    if label.type == LABEL_TYPES["class"]:
        return "class", tuple(sorted(pc.unique(label).drop_null().to_pylist()))
    if label.type == LABEL_TYPES["continuous"]:
        return "continuous", ()
    if pa.types.is_list(label.type) and label.type.value_type == pa.string():
        return "hashtags", ()
    raise StageError(
        f"{storage.uri('labels')}: labels of type {label.type} cannot be exported; run `raypipe label --overwrite`"
    )


def _split_indices(
    storage: Storage, split: pa.ChunkedArray, label_row: npt.NDArray[np.int64], left: npt.NDArray[np.bool_]
) -> tuple[tuple[str, ...], npt.NDArray[np.int8]]:
    codes = np.append(pc.fill_null(pc.index_in(split, value_set=pa.array(SIDES)), -1).to_numpy(), -1)[label_row]
    unknown = np.flatnonzero(left & (codes < 0))
    if len(unknown):
        name = split[int(label_row[unknown[0]])].as_py()
        raise InputError(f"{storage.uri('labels')}: split {name!r} cannot be exported; allowed are {', '.join(SIDES)}")
    used = [code for code in range(len(SIDES)) if (codes[left] == code).any()]
    place = np.full(len(SIDES) + 1, -1, np.int8)
    place[used] = np.arange(len(used))
    return tuple(SIDES[code] for code in used), np.where(left, place[codes], -1).astype(np.int8)


def _shards(
    split_index: npt.NDArray[np.int8], sizes: npt.NDArray[np.int64], n_splits: int, shard_bytes: int
) -> npt.NDArray[np.int64]:
    """The shard of each row within its split, by the position of its first byte; −1 for dropped rows."""
    shard = np.full(len(split_index), -1, np.int64)
    for number in range(n_splits):
        in_split = np.flatnonzero(split_index == number)
        starts = np.cumsum(sizes[in_split]) - sizes[in_split]
        # A picture larger than a shard leaves a gap in the numbers. `np.unique` closes the gaps.
        shard[in_split] = np.unique(starts // shard_bytes, return_inverse=True)[1]
    return shard


def _check_unique(storage: Storage, table: str, post_id: pa.ChunkedArray) -> None:
    if (doubles := len(post_id) - pc.count_distinct(post_id).as_py()) > 0:
        raise StageError(
            f"{storage.uri(table)}: {doubles:,} posts occur twice; run `{tables.COMMAND_BY_TABLE[table]}` again"
        )


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "it has no rows"
