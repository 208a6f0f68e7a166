"""What to predict on: pictures, folders of them, and manifests that list them."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq

from raypipe.errors import InputError, one_line
from raypipe.plain import plain_table

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
MANIFESTS = (".csv", ".jsonl", ".parquet")


def find_pictures(inputs: Sequence[str]) -> list[str]:
    """Paths or URIs of all pictures named by `inputs`, in order, each once.

    A folder gives the pictures below it, sorted; a manifest its column `path`, relative paths counted from the
    manifest's folder. Raises InputError where something is missing, is no picture, or holds none.
    """
    if not inputs:
        raise InputError("predict.inputs: nothing to predict on; give --predict.inputs PICTURE,FOLDER,MANIFEST.csv")
    found = [path for item in inputs for path in _expand(item)]
    return list(dict.fromkeys(found))


def open_filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a path or URI, and the path on it."""
    if "://" in path:
        filesystem, inner = pafs.FileSystem.from_uri(path)
        return filesystem, inner
    return pafs.LocalFileSystem(), path


def _expand(item: str) -> list[str]:
    try:
        filesystem, path = open_filesystem(item)
        info = filesystem.get_file_info(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"predict.inputs: {item}: cannot be opened: {one_line(error)}") from error
    prefix = item[: len(item) - len(path)] if item.endswith(path) else ""
    if info.type == pafs.FileType.NotFound:
        raise InputError(f"predict.inputs: {item}: there is no such file or folder")
    if info.type == pafs.FileType.Directory:
        files = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
        pictures = sorted(prefix + file.path for file in files if file.path.lower().endswith(PICTURES))
        if not pictures:
            raise InputError(f"predict.inputs: {item}: holds no picture ({', '.join(PICTURES)})")
        return pictures
    if path.lower().endswith(MANIFESTS):
        return _read_manifest(item, filesystem, path)
    return [item]


def _read_manifest(item: str, filesystem: pafs.FileSystem, path: str) -> list[str]:
    readers = {".csv": pacsv.read_csv, ".jsonl": pajson.read_json, ".parquet": pq.read_table}
    reader = readers[posixpath.splitext(path.lower())[1]]
    try:
        with filesystem.open_input_file(path) as file:
            table = plain_table(reader(file))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"predict.inputs: {item}: cannot be read: {one_line(error)}") from error
    if "path" not in table.column_names:
        raise InputError(f"predict.inputs: {item}: has no column path, only {', '.join(table.column_names)}")
    folder = posixpath.dirname(item)
    return [
        p if "://" in p else posixpath.join(folder, p) for p in table["path"].cast(pa.string()).drop_null().to_pylist()
    ]
