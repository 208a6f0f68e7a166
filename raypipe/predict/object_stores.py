"""Object stores that hold pictures: which addresses may be opened, and with which options.

Each request to a store is signed with the user's credentials. So only the user may name a server: in the options of a
URI (``?endpoint_override=HOST``), or as the host of an ``abfs://`` URI. A row of a manifest or the name of an object
may not name a server.
"""

from __future__ import annotations

import re

import pyarrow.fs as pafs

from raypipe.storage import Storage

STORE_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss")
"""Schemes of URIs of object stores."""

# Options of pyarrow's URIs. Any other question mark is part of a name.
_OPTIONS = re.compile(
    r"\?(?=(?:endpoint_override|scheme|region|retry_limit_seconds|project_id|default_bucket_location|force_virtual_\w+"
    r"|allow_\w+|check_directory_\w+|smart_defaults|sse_\w+|tls_\w+|enable_tls|(?:blob|dfs)_storage_\w+"
    r"|background_writes|credential_kind|tenant_id|client_id|client_secret)=)"
)
_BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_AZURE = r"(?:[A-Za-z0-9$-]+@[a-z0-9-]+\.dfs|[a-z0-9-]+\.blob)\.core\.windows\.net"
# What a manifest may write between :// and the next slash: only buckets, and containers on Azure's own servers.
_ALLOWED_STORES = {
    "s3": re.compile(_BUCKET),
    "gs": re.compile(f"(?:anonymous@)?{_BUCKET}"),
    "gcs": re.compile(f"(?:anonymous@)?{_BUCKET}"),
    "abfs": re.compile(_AZURE),
    "abfss": re.compile(_AZURE),
}
# By default, pyarrow retries for 15 minutes.
_GCS_SECONDS = 20


def scheme_of(uri: str) -> str:
    """The part before ``://``. Empty for a path."""
    scheme, separator, _ = uri.partition("://")
    return scheme if separator else ""


def store_of(uri: str) -> str:
    """Scheme and bucket, container or server of a URI, such as ``s3://bucket``. Empty for a path."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}" if separator else ""


def service_of(uri: str) -> str:
    """The service behind a URI. S3 and Google have one service for all buckets, Azure one per account or container."""
    scheme = scheme_of(uri)
    return store_of(uri) if scheme.startswith("abfs") else scheme


def split_options(uri: str) -> tuple[str, str]:
    """The URI of an object store without its options, and the options without the question mark (empty if none)."""
    found = _OPTIONS.search(uri) if scheme_of(uri) in STORE_SCHEMES else None
    return (uri, "") if found is None else (uri[: found.start()], uri[found.end() :])


def refusal_reason(uri: str) -> str | None:
    """Why a URI may not be opened if the user did not name its store. None if it may be opened."""
    location, options = split_options(uri)
    if options:
        return f"has options, which only predict.inputs may give: {options}"
    store = store_of(location)
    if not _ALLOWED_STORES[scheme_of(location)].fullmatch(store.partition("://")[2]):
        return f"names no bucket, and only predict.inputs may name a server: {store}"
    return None


def open_store(location: str, options: str, storage: Storage) -> tuple[pafs.FileSystem, str]:
    """The filesystem of a path or URI without options, and the path on it, which is taken literally.

    `options` are those that the user set for it. Without options, S3 uses endpoint, region and profile of `storage`.
    Raises OSError, ValueError, pa.ArrowException or StageError if there is no such filesystem.
    """
    store = store_of(location)
    if not store:
        return pafs.LocalFileSystem(), location
    key = (store, options, storage)
    if key not in _OPENED:
        _OPENED[key] = _open(store, options, storage)
    filesystem, base = _OPENED[key]
    name = location.removeprefix(store).removeprefix("/")
    return filesystem, f"{base}/{name}" if base and name else base or name


# Each store is opened once per process, because opening may need a request for the bucket's region.
_OPENED: dict[tuple[str, str, Storage], tuple[pafs.FileSystem, str]] = {}


def _open(store: str, options: str, storage: Storage) -> tuple[pafs.FileSystem, str]:
    scheme = scheme_of(store)
    if scheme == "s3" and not options:
        opened = Storage(store, storage.endpoint, storage.region, storage.profile)
        return opened.filesystem, store.removeprefix("s3://")
    if scheme in ("gs", "gcs") and "retry_limit_seconds=" not in options:
        options = "&".join(filter(None, (options, f"retry_limit_seconds={_GCS_SECONDS}")))
    filesystem, base = pafs.FileSystem.from_uri(f"{store}?{options}" if options else store)
    return filesystem, base.rstrip("/")
