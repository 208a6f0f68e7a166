"""Merges many small staged files into few large ones, and reads staged files together.

A merged file lists its sources in its metadata. It is written whole before the sources are deleted. If a process is
killed in between, the readers here skip the listed sources, and `delete_merged_sources` deletes them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.errors import StageError
from raypipe.tables import TableWriter

SECONDS_KEY = b"raypipe.seconds"
"""Metadata key of a file. Its value is a JSON object: seconds spent on the rows, by step. A merge adds them up."""

_SOURCES_KEY = b"raypipe.merged"
# How the unit name of a merged file ends.
_MERGED = re.compile(r"-m[0-9a-f]{8}$")
_READERS = 8


def staged_parts(writer: TableWriter) -> list[str]:
    """Sorted names of the staged Parquet files directly in the staging directory, without sources already merged."""
    return sorted(_unmerged_sizes(writer))


def read_parts(writer: TableWriter, schema: pa.Schema) -> pa.Table:
    """All staged rows, in the order of the parts, with the columns of `schema`."""
    # pyarrow.dataset imports pandas, which a process that only writes does not need.
    import pyarrow.dataset as pads

    storage = writer.storage
    paths = [storage.path(writer.staging, name) for name in staged_parts(writer)]
    if not paths:
        return schema.empty_table()
    with storage.errors("read", writer.staging):
        found = pads.dataset(paths, schema=schema, filesystem=storage.filesystem, format="parquet")
        return found.to_table(columns=schema.names)


def merge_groups(writer: TableWriter, target_bytes: int) -> list[list[str]]:
    """The staged parts to merge into files of about `target_bytes`, in the groups of `group_adjacent`."""
    return group_adjacent(_unmerged_sizes(writer), target_bytes)


def group_adjacent(sizes: Mapping[str, int], target_bytes: int) -> list[list[str]]:
    """Groups of two or more adjacent names in sorted order, each of at most 1.25 times the target in sum.

    A part of half the target or more stays alone and ends the group before it. So if a kill interrupts the
    merges, the remaining parts are grouped in the same way again.
    """
    groups: list[list[str]] = [[]]
    total = 0
    for name in sorted(sizes):
        large = 2 * sizes[name] >= target_bytes
        if large or 4 * (total + sizes[name]) > 5 * target_bytes:
            groups.append([])
            total = 0
        if large:
            continue
        groups[-1].append(name)
        total += sizes[name]
        if total >= target_bytes:
            groups.append([])
            total = 0
    return [group for group in groups if len(group) > 1]


def merge(writer: TableWriter, names: Sequence[str]) -> str:
    """Merge staged files into one, row group by row group, and delete them. Returns the name of the new file.

    A call can be repeated after a kill, also at the same time from another process. Raises StageError if a source is
    missing and no merged file has its rows, or if the sources have different columns.
    """
    storage, target = writer.storage, merged_name(writer, names)
    path = f"{writer.staging}/{target}"
    if not storage.exists(path):
        try:
            _write(writer, target, names)
        except StageError:
            # Another process may have finished the same merge and deleted the sources that this one read.
            if not storage.exists(path):
                raise
    for name in names:
        storage.delete(f"{writer.staging}/{name}")
    return target


def delete_merged_sources(writer: TableWriter) -> list[str]:
    """Delete the sources that a killed `merge` left beside its file. Returns their names."""
    staged = _staged_sizes(writer)
    left = sorted(_merged_sources(writer, staged) & set(staged))
    for name in left:
        writer.storage.delete(f"{writer.staging}/{name}")
    return left


def merged_name(writer: TableWriter, names: Sequence[str]) -> str:
    """The name of the file that `names` are merged into. It sorts in the place of the first of them."""
    mark = hashlib.sha256("\n".join(names).encode()).hexdigest()[:8]
    return writer.part_name(f"{_MERGED.sub('', _unit(names[0], writer))}-m{mark}")


def _unit(name: str, writer: TableWriter) -> str:
    prefix, suffix = writer.part_name("\n").split("\n")
    return name.removeprefix(prefix).removesuffix(suffix)


def _staged_sizes(writer: TableWriter) -> dict[str, int]:
    prefix, suffix = writer.part_name("\n").split("\n")
    sizes = writer.storage.sizes(writer.staging)
    return {name: size for name, size in sizes.items() if name.startswith(prefix) and name.endswith(suffix)}


def _unmerged_sizes(writer: TableWriter) -> dict[str, int]:
    staged = _staged_sizes(writer)
    done = _merged_sources(writer, staged)
    return {name: size for name, size in staged.items() if name not in done}


def _merged_sources(writer: TableWriter, staged: Iterable[str]) -> set[str]:
    """The names of all files whose rows are in merged files."""
    merged = [name for name in staged if _MERGED.search(_unit(name, writer))]
    with ThreadPoolExecutor(_READERS) as pool:
        return {source for found in pool.map(lambda name: _metadata(writer, name), merged) for source in _listed(found)}


def _listed(metadata: Mapping[bytes, bytes]) -> list[str]:
    found: list[str] = json.loads(metadata.get(_SOURCES_KEY, b"[]"))
    return found


def _metadata(writer: TableWriter, name: str) -> dict[bytes, bytes]:
    with _open(writer, name) as file:
        return file.metadata.metadata or {}


def _open(writer: TableWriter, name: str) -> pq.ParquetFile:
    with writer.storage.errors("read", f"{writer.staging}/{name}"):
        path = writer.storage.path(writer.staging, name)
        # On an object store this reads a row group in one request instead of one request per column.
        return pq.ParquetFile(path, filesystem=writer.storage.filesystem, pre_buffer=not writer.storage.is_local)


def _write(writer: TableWriter, target: str, names: Sequence[str]) -> None:
    storage = writer.storage
    schema = _schema(writer, names[0])
    for name in names:
        if not _schema(writer, name).equals(schema):
            raise StageError(
                f"{storage.uri(writer.staging, name)}: has other columns than {names[0]}, so they cannot be merged; "
                "run its stage again with --overwrite"
            )

    def rows() -> Iterator[pa.Table]:
        for name in names:
            with _open(writer, name) as source:
                for number in range(source.num_row_groups):
                    with storage.errors("read", f"{writer.staging}/{name}"):
                        group = source.read_row_group(number, use_threads=False)
                    yield group

    added = _merged_metadata(names, [_metadata(writer, name) for name in names])
    writer.write_stream(_unit(target, writer), schema, rows(), lambda: added)


def _schema(writer: TableWriter, name: str) -> pa.Schema:
    with _open(writer, name) as file:
        return file.schema_arrow.remove_metadata()


def _merged_metadata(names: Sequence[str], found: Sequence[Mapping[bytes, bytes]]) -> dict[bytes, bytes]:
    # The sources of sources are listed too: if one of them still exists, its rows are in this file.
    sources = [*names, *(source for metadata in found for source in _listed(metadata))]
    seconds: Counter[str] = Counter()
    for metadata in found:
        seconds.update(json.loads(metadata.get(SECONDS_KEY, b"{}")))
    merged = {_SOURCES_KEY: json.dumps(sources).encode()}
    if any(SECONDS_KEY in metadata for metadata in found):
        merged[SECONDS_KEY] = json.dumps({step: round(value, 4) for step, value in seconds.items()}).encode()
    return merged
