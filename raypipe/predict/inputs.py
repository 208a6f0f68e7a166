"""The inputs of `predict`: pictures, folders of pictures, and manifests that list pictures."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raypipe.errors import InputError, one_line
from raypipe.pictures.formats import FILE_ENDINGS
from raypipe.predict.object_stores import open_store, store_of
from raypipe.predict.picture_files import (
    STORE_ERRORS,
    InputPicture,
    parse_path,
    parse_user_path,
    printable_path,
    with_file_info,
)
from raypipe.storage import Storage
from raypipe.tables.input_files import InputFiles, file_kind
from raypipe.tables.untrusted import plain_table

PICTURE_ENDINGS = tuple(ending for endings in FILE_ENDINGS.values() for ending in endings)

_PATH = "path"
_TEXT = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
    pa.types.is_null,
)
_MAX_LINE_SHOWN = 80


@dataclass(frozen=True)
class FoundPictures:
    """The pictures that the inputs name, each once, in order. `n_repeated` counts the repetitions."""

    pictures: list[InputPicture]
    n_repeated: int


def find_pictures(inputs: Sequence[str], storage: Storage) -> FoundPictures:
    """All pictures that `inputs` name. ``s3://`` is opened with endpoint, region and profile of `storage`.

    A folder gives the pictures below it, sorted. A manifest gives those of its column `path`. Relative paths start at
    the manifest's folder. A row of a manifest that cannot be read gives a picture with a `reason`. Raises InputError if
    an input itself is missing, cannot be read, or contains no picture.
    """
    if not inputs:
        raise InputError("predict.inputs: not set; set --predict.inputs PICTURE,FOLDER,MANIFEST.csv")
    stores = {store_of(parse_user_path(item).location) for item in inputs} - {""}
    expanded = [picture for item in inputs for picture in _expand(item, storage, stores)]
    kept: dict[str, InputPicture] = {}
    for number, picture in enumerate(expanded):
        # Rows without a path are not repetitions of each other.
        kept.setdefault(picture.path or f"\0{number}", picture)
    return FoundPictures(list(kept.values()), len(expanded) - len(kept))


def _expand(item: str, storage: Storage, stores: set[str]) -> list[InputPicture]:
    """The pictures of one input. `stores` are the stores of all inputs."""
    picture = parse_user_path(item)
    if picture.reason is not None:
        raise InputError(f"predict.inputs: {picture.path}: {picture.reason}")
    try:
        filesystem, path = open_store(picture.location, picture.options, storage)
        kind = _kind(filesystem, path)
        if kind == pafs.FileType.NotFound:
            raise InputError(f"predict.inputs: {picture.path}: there is no such file or folder")
        if kind == pafs.FileType.Directory:
            found = (
                _list_local_folder(item, picture.location)
                if "://" not in picture.location
                else _list_store_folder(picture, filesystem, path)
            )
            if not found:
                raise InputError(f"predict.inputs: {picture.path}: contains no picture ({', '.join(PICTURE_ENDINGS)})")
            return found
    except STORE_ERRORS as error:
        raise InputError(f"predict.inputs: {picture.path}: cannot be opened: {one_line(error)}") from error
    manifest_kind = file_kind(path)
    if manifest_kind is not None:
        source = InputFiles(picture.path, filesystem, (path,), manifest_kind, "pictures", text_only_column=_PATH)
        # Relative paths of a local manifest are shown with the manifest's folder as the user wrote it.
        manifest = picture if picture.is_in_user_store else replace(picture, location=item)
        return list(_read_manifest(manifest, source, stores))
    return [picture]


def _kind(filesystem: pafs.FileSystem, path: str) -> pafs.FileType:
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return filesystem.get_file_info(path).type
    # pyarrow does not accept names that are not UTF-8.
    if os.path.isdir(path):  # noqa: PTH112
        return pafs.FileType.Directory
    return pafs.FileType.File if os.path.lexists(path) else pafs.FileType.NotFound


def _list_local_folder(item: str, location: str) -> list[InputPicture]:
    """Pictures below a local folder, links followed. A subfolder that cannot be listed is one with a `reason`."""
    found: list[InputPicture] = []

    def name(path: str) -> str:
        return os.path.join(item, os.path.relpath(path, location))  # noqa: PTH118

    def on_walk_error(error: OSError) -> None:
        if error.filename == location:
            raise error
        found.append(InputPicture(printable_path(name(error.filename)), reason=f"cannot be listed: {error.strerror}"))

    seen: set[tuple[int, int]] = set()
    for folder, folders, files in os.walk(location, onerror=on_walk_error, followlinks=True):
        status = os.stat(folder)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            # A link led back to this folder.
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        paths = (os.path.join(folder, file) for file in files if file.lower().endswith(PICTURE_ENDINGS))  # noqa: PTH118
        found += [InputPicture(printable_path(name(path)), path) for path in paths]
    return sorted(found, key=lambda picture: picture.path)


def _list_store_folder(folder: InputPicture, filesystem: pafs.FileSystem, path: str) -> list[InputPicture]:
    """Pictures below a folder of an object store, with the sizes and times from its listing."""
    found = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    files = (info for info in found if info.type == pafs.FileType.File and info.path.lower().endswith(PICTURE_ENDINGS))
    base, item = path.rstrip("/"), folder.location.rstrip("/")
    expanded = ((f"{item}/{info.path.removeprefix(base).lstrip('/')}", info) for info in files)
    ordered = sorted(expanded, key=lambda pair: pair[0])
    # Names of objects do not set options: a question mark is part of the name.
    return [with_file_info(replace(folder, path=printable_path(uri), location=uri), info) for uri, info in ordered]


def _read_manifest(manifest: InputPicture, source: InputFiles, stores: set[str]) -> Iterator[InputPicture]:
    """One picture per row. Relative paths start at the manifest's folder. Paths in its store get its options."""
    try:
        paths, lines = _parquet_paths(source) if source.kind == "Parquet" else _text_paths(source)
    except InputError as error:
        raise InputError(f"predict.inputs: {error}") from error
    except ValueError as error:
        raise InputError(f"predict.inputs: {source.uri}: cannot be read: {one_line(error)}") from error
    folder, own = posixpath.dirname(manifest.location), store_of(manifest.location)
    for number, path in enumerate(paths, 1):
        if path:
            location = path if "://" in path else posixpath.join(folder, path)
            yield parse_path(location, stores, manifest.options if store_of(location) == own else "")
        else:
            yield InputPicture("", reason=f"has no path: row {number} of {source.uri}")
    for line, why in lines:
        begins = line if len(line) <= _MAX_LINE_SHOWN else f"{line[:_MAX_LINE_SHOWN]}…"
        yield InputPicture("", reason=f"is no row: {why} in {source.uri}: {begins}")


def _text_paths(source: InputFiles) -> tuple[list[str | None], list[tuple[str, str]]]:
    raw = source.read({_PATH})
    if not len(raw.table):
        raise InputError(f"{source.uri}: no row can be read; first error: {raw.lines[0][1]}")
    if _PATH not in raw.table.column_names:
        raise InputError(f"{source.uri}: has no column path, only {', '.join(raw.table.column_names)}")
    return raw.table[_PATH].to_pylist(), raw.lines


def _parquet_paths(source: InputFiles) -> tuple[list[str | None], list[tuple[str, str]]]:
    try:
        with source.filesystem.open_input_file(source.paths[0]) as handle:
            file = pq.ParquetFile(handle)
            names = file.schema_arrow.names
            if names.count(_PATH) > 1:
                raise InputError(f"{source.uri}: has two columns named {_PATH!r}; rename one")
            if _PATH not in names:
                raise InputError(f"{source.uri}: has no column path, only {', '.join(names)}")
            column = plain_table(file.read([_PATH]), source.uri)[_PATH]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source.uri}: cannot be read as Parquet: {one_line(error)}") from error
    if not len(column):
        raise InputError(f"{source.uri}: has no {source.row_noun}")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not any(is_kind(kind) for is_kind in _TEXT):
        raise InputError(f"{source.uri}: its column path has {column.type}, not text")
    # Text is also cast: Arrow does not check that it is UTF-8, and names of files need not be UTF-8.
    values = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values], []
