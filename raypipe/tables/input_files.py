"""Reads posts from Parquet, CSV or JSONL, one file or a directory, on any filesystem that pyarrow opens."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe.errors import InputError, StageError, one_line
from raypipe.storage import Storage
from raypipe.tables.text_rows import csv_rows, is_utf8, json_object, replace_bad_bytes, replace_surrogates
from raypipe.tables.untrusted import plain_schema, plain_table

_KINDS = {".parquet": "Parquet", ".pq": "Parquet", ".csv": "CSV", ".jsonl": "JSONL", ".ndjson": "JSONL"}
_COMPRESSED = (".gz", ".bz2", ".zst")
_BLOCK_ROWS = 65_536
_HASH_BLOCK = 2**22


@dataclass
class InputRows:
    """The rows of an input. `lines` holds the lines that could not be read as rows, each with its reason."""

    table: pa.Table
    lines: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class InputFiles:
    """The files of one posts input, all of one kind (Parquet, CSV or JSONL)."""

    uri: str
    filesystem: pafs.FileSystem
    paths: tuple[str, ...]
    kind: str
    row_noun: str = "posts"
    """The name of its rows in error messages."""
    text_only_column: str | None = None
    """A column that must hold text. A JSONL row with another type of value in it goes to `InputRows.lines`."""

    def fingerprint(self) -> str:
        """SHA-256 of the contents of the files in order. Their names do not matter."""
        digest = hashlib.sha256()
        for path in self.paths:
            content = hashlib.sha256()
            with self._opened(path, compression=None) as stream:
                while block := stream.read(_HASH_BLOCK):
                    content.update(block)
            digest.update(content.digest())
        return digest.hexdigest()

    def read(self, text_columns: set[str], limit: int | None = None) -> InputRows:
        """All rows, or the first `limit`. The columns `text_columns` of CSV and JSONL are always strings.

        Other CSV columns are integers or floats if every value is one, else strings. A line of CSV or JSONL that is not
        a row, or not UTF-8, goes to `InputRows.lines` with its reason. Raises InputError if a file cannot be read,
        or if there are no rows and no such lines.
        """
        raw: list[pa.Table] = []
        lines: list[tuple[str, str]] = []
        rows = 0
        for path in self.paths:
            left = None if limit is None else limit - rows - len(lines)
            blocks = {
                "Parquet": lambda path=path, left=left: self._parquet(path, left),
                "CSV": lambda path=path, left=left: self._csv(path, left, lines),
                "JSONL": lambda path=path, left=left: self._jsonl(path, left, lines, text_columns),
            }
            for block in blocks[self.kind]():
                raw.append(block)
                rows += len(block)
        if not rows and not lines:
            raise InputError(f"{self.uri}: has no {self.row_noun}")
        return InputRows(self._joined(raw, text_columns), lines)

    def _joined(self, tables: list[pa.Table], text_columns: set[str]) -> pa.Table:
        try:
            joined = pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowException:
            # A column with numbers in one block and words in another becomes text.
            joined = pa.concat_tables([_all_text(table) for table in tables], promote_options="permissive")
        if self.kind != "CSV":
            return joined
        columns = [
            column if name in text_columns else _as_numbers(column)
            for name, column in zip(joined.column_names, joined.columns, strict=True)
        ]
        return pa.table(columns, names=joined.column_names)

    def _opened(self, path: str, compression: str | None = "detect") -> IO[bytes]:
        try:
            stream: IO[bytes] = self.filesystem.open_input_stream(path, compression=compression)
        except OSError as error:
            raise InputError(f"{self._name(path)}: cannot be read: {one_line(error)}") from error
        return stream

    def _name(self, path: str) -> str:
        return self.uri if len(self.paths) == 1 else f"{self.uri} ({path})"

    def _parquet(self, path: str, left: int | None) -> Iterator[pa.Table]:
        try:
            with self.filesystem.open_input_file(path) as handle:
                file = pq.ParquetFile(handle)
                self._check_names(path, file.schema_arrow.names)
                yield plain_schema(file.schema_arrow, self._name(path)).empty_table()
                for batch in file.iter_batches(batch_size=_BLOCK_ROWS):
                    yield pa.Table.from_batches([plain_table(batch.slice(0, left), self._name(path))])
                    left = None if left is None else max(0, left - len(batch))
                    if left == 0:
                        return
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self._name(path)}: cannot be read as Parquet: {one_line(error)}") from error

    def _text(self, path: str) -> io.TextIOWrapper:
        # Spreadsheets write a byte order mark, which is not part of the first column's name. Bytes that are not UTF-8
        # become lone surrogates, which valid UTF-8 never gives, so they can be found line by line.
        stream = io.BufferedReader(_Readable(self._opened(path)))
        return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")

    def _check_names(self, path: str, names: Sequence[str]) -> None:
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{self._name(path)}: has two columns named {twice!r}; rename one")

    def _csv(self, path: str, left: int | None, lines: list[tuple[str, str]]) -> Iterator[pa.Table]:
        try:
            with self._text(path) as text:
                found = csv_rows(text)
                names = next(found, [])
                if isinstance(names, tuple):
                    raise InputError(f"{self._name(path)}: its first line is not a row: {names[1]}: {names[0][:80]!r}")
                if not all(map(is_utf8, names)):
                    raise InputError(f"{self._name(path)}: its first line is not UTF-8; save the file as UTF-8")
                self._check_names(path, names)
                rows: list[list[str]] = []
                for row in islice((row for row in found if row), left):
                    if isinstance(row, tuple):
                        lines.append((replace_bad_bytes(row[0]), row[1]))
                    elif not all(map(is_utf8, row)):
                        lines.append((replace_bad_bytes(_csv_line(row)), "not_utf8"))
                    elif len(row) == len(names):
                        rows.append(row)
                    else:
                        lines.append((_csv_line(row), "wrong_number_of_fields"))
                    if len(rows) == _BLOCK_ROWS:
                        yield _table_of_text(names, rows)
                        rows = []
                yield _table_of_text(names, rows)
        except OSError as error:
            raise InputError(f"{self._name(path)}: cannot be read as CSV: {one_line(error)}") from error

    def _jsonl(
        self, path: str, left: int | None, lines: list[tuple[str, str]], text_columns: set[str]
    ) -> Iterator[pa.Table]:
        rows: list[dict[str, Any]] = []
        try:
            with self._text(path) as text:
                for line in islice(filter(str.strip, text), left):
                    row = json_object(line)
                    if isinstance(row, dict) and not isinstance(
                        row.get(self.text_only_column or ""), (str, type(None))
                    ):
                        row = f"{self.text_only_column}_is_no_text"
                    if isinstance(row, dict):
                        rows.append(row)
                    else:
                        lines.append((replace_bad_bytes(line.rstrip("\r\n")), row))
                    if len(rows) == _BLOCK_ROWS:
                        yield _table_of_objects(rows, text_columns)
                        rows = []
        except OSError as error:
            raise InputError(f"{self._name(path)}: cannot be read as JSONL: {one_line(error)}") from error
        yield _table_of_objects(rows, text_columns)


class _Readable(io.RawIOBase):
    """Adapts a pyarrow stream, decompressed or not, to Python's buffered readers."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def open_input_files(uri: str, storage: Storage) -> InputFiles:
    """The posts at `uri`: a file, or a directory with files of one kind (names with ``.`` or ``_`` first are skipped).

    An ``s3://`` URI is opened with the endpoint, region and profile of `storage`. Raises InputError if `uri` cannot be
    opened, does not exist, has no files, or has files of unknown or different kinds.
    """
    place = Storage(uri, storage.endpoint, storage.region, storage.profile)
    try:
        filesystem, base = place.filesystem, place.path("").rstrip("/")
        info = filesystem.get_file_info(base)
        paths = [base]
        if info.type == pafs.FileType.Directory:
            found = filesystem.get_file_info(pafs.FileSelector(base, recursive=True))
            paths = sorted(item.path for item in found if item.type == pafs.FileType.File and _visible(item.path, base))
    except (StageError, OSError) as error:
        raise InputError(f"--posts {uri}: cannot be opened: {one_line(error)}") from error
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"--posts {uri}: does not exist")
    kinds = {path: file_kind(path) for path in paths}
    if not paths:
        raise InputError(f"--posts {uri}: is a directory without files")
    unknown = [path for path, kind in kinds.items() if kind is None]
    if unknown:
        raise InputError(
            f"--posts {uri}: {unknown[0].rsplit('/', 1)[-1]} is not a known kind of file; use {', '.join(_KINDS)} "
            f"(CSV and JSONL also compressed: {', '.join(_COMPRESSED)})"
        )
    if len(set(kinds.values())) > 1:
        raise InputError(f"--posts {uri}: contains {' and '.join(sorted(map(str, set(kinds.values()))))}; use one kind")
    return InputFiles(uri, filesystem, tuple(paths), str(kinds[paths[0]]))


def _visible(path: str, base: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in path.removeprefix(base).strip("/").split("/"))


def file_kind(path: str) -> str | None:
    """The kind of file by the ending of its name, or None if unknown. CSV and JSONL may be compressed, Parquet not."""
    name = path.lower()
    for ending in _COMPRESSED:
        plain = name.removesuffix(ending)
        if plain != name:
            return next((kind for end, kind in _KINDS.items() if plain.endswith(end) and kind != "Parquet"), None)
    return next((kind for end, kind in _KINDS.items() if name.endswith(end)), None)


def _csv_line(row: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(row)
    return text.getvalue()


def _table_of_text(names: list[str], rows: list[list[str]]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table([pa.array([v or None for v in column], pa.string()) for column in columns], names=names)


def _table_of_objects(rows: list[dict[str, Any]], text_columns: set[str]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = []
    for name in names:
        values = [row.get(name) for row in rows]
        columns.append(_text_column(values) if name in text_columns else _natural_column(values))
    return pa.table(columns, names=names)


def _natural_column(values: list[Any]) -> pa.Array:
    try:
        found = pa.array(values)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        return _text_column(values)
    # Parquet has no type for structs without fields.
    return _text_column(values) if _has_empty_struct(found.type) else found


def _has_empty_struct(kind: pa.DataType) -> bool:
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return (pa.types.is_struct(kind) and not inner) or any(map(_has_empty_struct, inner))


def _text_column(values: list[Any]) -> pa.Array:
    return pa.array([None if value is None else as_text(value) for value in values], pa.string())


def as_text(value: Any) -> str:
    """A value as a string: strings unchanged, anything else as JSON."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, bytes):
        return value.hex()
    return replace_surrogates(json.dumps(value, ensure_ascii=False, default=str))


def text_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of any type as strings. Values other than strings become JSON."""
    if pa.types.is_string(column.type):
        return column
    return pa.chunked_array([_text_column(column.to_pylist())])


def _all_text(table: pa.Table) -> pa.Table:
    return pa.table([text_column(column) for column in table.columns], names=table.column_names)


def _as_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # A value such as `007` is an identifier, not a number.
    leading_zero = pc.any(pc.match_substring_regex(column, r"^[+-]?0[0-9]"), min_count=0).as_py()
    if leading_zero or column.null_count == len(column):
        return column
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.cast(column, kind)
        except pa.ArrowInvalid:
            continue
    return column
