"""The complete tables under a root, as the report reads them. Each is loaded once, on first use."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.errors import InputError, one_line
from raypipe.storage import Storage
from raypipe.tables.record import RunRecord

_SINGLE_TABLES = ("posts", "posts_rejected", "pictures", "truth", "images", "labels", "judge", "sweep")
_FAMILIES = ("train", "study")
_POSTS = ("post_id", "likes", "followers", "n_hashtags", "deleted")
# Errors that damaged JSON and CSV, or values of unexpected types, raise.
_DAMAGE = (ValueError, RecursionError, TypeError, LookupError, AttributeError, csv.Error)
_IMAGES = ("post_id", "status", "attempts", "n_bytes", "n_faces")


@dataclass(frozen=True)
class RootTables:
    """The complete tables under a root. The frame of a missing table is None."""

    storage: Storage
    records: dict[str, RunRecord]

    @classmethod
    def open(cls, storage: Storage) -> RootTables:
        """Find out which tables are complete. Data are read later."""
        names = [*_SINGLE_TABLES, *(name for family in _FAMILIES for name in _members(storage, family))]
        found = {name: tables.find_record(storage, name) for name in names}
        return cls(storage, {name: record for name, record in found.items() if record is not None})

    def __contains__(self, table: object) -> bool:
        return table in self.records

    @property
    def run_ids(self) -> dict[str, str]:
        """Run ids by table. A report depends on these."""
        return {name: record.run_id for name, record in self.records.items()}

    @property
    def training_tables(self) -> list[str]:
        """`sweep` and each `train/NAME` that are complete."""
        return [name for name in self.records if name == "sweep" or name.startswith("train/")]

    @property
    def study_tables(self) -> list[str]:
        """Each `study/NAME` that is complete."""
        return [name for name in self.records if name.startswith("study/")]

    @cached_property
    def posts(self) -> pd.DataFrame | None:
        """`post_id, likes, followers, n_hashtags, deleted`, one row per post."""
        return self._frame("posts", _POSTS)

    @cached_property
    def images(self) -> pd.DataFrame | None:
        """`post_id, status, attempts, n_bytes, n_faces`, one row per post. The pictures are not loaded."""
        return self._frame("images", _IMAGES)

    @cached_property
    def labels(self) -> pd.DataFrame | None:
        """All columns of `labels/`, one row per post that took part."""
        return self._frame("labels")

    @cached_property
    def users(self) -> dict[str, str | None]:
        """The user of each post of `labels/`, by post id; None for an unknown user."""
        labels = self.labels
        if labels is None:
            return {}
        known = labels["user_id"].map(lambda user: user if isinstance(user, str) else None)
        return dict(zip(labels["post_id"], known, strict=True))

    @cached_property
    def model(self) -> dict[str, Any] | None:
        """`labels/_model.json`, or None if the scheme fitted no regression."""
        found = self.json("labels", "_model.json")
        return found if isinstance(found, dict) and found.get("params") else None

    @cached_property
    def scheme(self) -> str | None:
        """The scheme of the labels, from ``labels/_model.json``; None if there is none."""
        found = self.json("labels", "_model.json")
        return found.get("scheme") if isinstance(found, dict) else None

    @cached_property
    def truth(self) -> pd.DataFrame | None:
        """The planted effects of a generated world."""
        return self._frame("truth")

    @cached_property
    def truth_facts(self) -> dict[str, Any] | None:
        """`truth/_truth.json`: the coefficients of a generated world."""
        found = self.json("truth", "_truth.json")
        return found if isinstance(found, dict) else None

    def json(self, table: str, name: str) -> Any:
        """A JSON file that the record of a complete table lists, or None. Raises InputError if it is damaged."""
        data = self.file(table, name)
        if data is None:
            return None
        with self.input_errors(table, name):
            found = json.loads(data)
        if b"\\ud" in data.lower():
            # JSON can hold lone surrogates, but UTF-8 files and pages cannot.
            found = json.loads(json.dumps(found, ensure_ascii=False).encode(errors="replace"))
        return found

    @contextmanager
    def input_errors(self, table: str, name: str) -> Iterator[None]:
        """Turn errors of the body into an InputError that names the file: its contents are not valid."""
        try:
            yield
        except _DAMAGE as error:
            raise InputError(
                f"{self.storage.uri(table, name)}: is not a valid file of raypipe ({type(error).__name__}: "
                f"{one_line(error)}); make {table}/ again with --overwrite"
            ) from error

    def file(self, table: str, name: str) -> bytes | None:
        """The bytes of a file that the record of a complete table lists, or None if it is not listed."""
        record = self.records.get(table)
        if record is None or name not in {file.path for file in record.files}:
            return None
        return self.storage.read(f"{table}/{name}")

    def pictures(self, post_ids: Iterable[str]) -> dict[str, bytes]:
        """The picture bytes of the given posts, by post id. Only files that hold one of these posts are read."""
        wanted = set(post_ids)
        if not wanted or "images" not in self:
            return {}
        dataset = tables.open_dataset(self.storage, "images")
        where = pc.field("post_id").isin(sorted(wanted))
        holding = dataset.to_table(columns=["__filename"], filter=where)["__filename"].unique().to_pylist()
        found: dict[str, bytes] = {}
        # The schema is given, because that of a file may have types whose values are unpickled.
        for fragment in dataset.get_fragments():
            if fragment.path not in holding:
                continue
            rows = fragment.to_table(dataset.schema, columns=["post_id", "image"], filter=where)
            pairs = zip(rows["post_id"].to_pylist(), rows["image"].to_pylist(), strict=True)
            found.update({post_id: image for post_id, image in pairs if image})
        return found

    def frame(self, table: str, folder: str = "") -> pd.DataFrame | None:
        """The Parquet rows of a table or of one of its folders, or None if it has no Parquet file."""
        if table not in self or not tables.data_paths(self.storage, table, folder):
            return None
        return _as_frame(tables.read_table(self.storage, table, folder=folder))

    def _frame(self, table: str, columns: Iterable[str] | None = None) -> pd.DataFrame | None:
        if table not in self or not tables.data_paths(self.storage, table):
            return None
        return _as_frame(tables.read_table(self.storage, table, list(columns) if columns else None))


def _as_frame(rows: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = rows.to_pandas()
    return frame


def _members(storage: Storage, family: str) -> list[str]:
    """Complete tables one level below `family/`."""
    names = (name.split("/") for name in storage.files(family))
    return [f"{family}/{parts[0]}" for parts in names if len(parts) == 2 and parts[1] == tables.RUN_FILE]
