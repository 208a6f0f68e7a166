"""Conditional writes to object stores: an object is replaced only if it is still the version that was read.

For S3 and Google Cloud Storage, through obstore, because pyarrow's file systems do not offer this. Azure has none yet:
obstore finds other credentials there than pyarrow.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from raypipe.errors import StageError, one_line
from raypipe.storage import Storage, explain

# Statuses of servers that do not know a request or one of its headers.
_UNKNOWN = re.compile(r"status code: (501|405)\b")
_SCHEMES = ("s3://", "gs://")
_CLIENT = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60), "allow_http": True}
_RETRIES = {"max_retries": 4, "retry_timeout": timedelta(minutes=3)}

Version = Mapping[str, str]
"""Names one version of an object, by its ETag or its generation."""


def is_available(storage: Storage) -> bool:
    """Whether the root is an object store with conditional writes. A URI with options or a user has none."""
    return storage.root.startswith(_SCHEMES) and not {"?", "@"} & set(storage.root)


@functools.lru_cache(maxsize=8)
def _store(storage: Storage) -> Any:
    import obstore.store

    options: dict[str, Any] = {"client_options": _CLIENT, "retry_config": _RETRIES}
    try:
        if storage.root.startswith("s3://"):
            options |= _s3_options(storage)
        return obstore.store.from_url(storage.root.rstrip("/"), **options)
    except Exception as error:
        raise StageError(f"root {storage.root}: cannot be opened: {one_line(error)}") from error


def _s3_options(storage: Storage) -> dict[str, Any]:
    import boto3
    from obstore.auth.boto3 import Boto3CredentialProvider

    session = boto3.Session(profile_name=storage.profile, region_name=storage.region)
    options: dict[str, Any] = {"credential_provider": Boto3CredentialProvider(session)}
    if storage.endpoint:
        options["endpoint"] = storage.endpoint
    return options


def read_version(storage: Storage, path: str) -> tuple[bytes, Version] | None:
    """The bytes of an object and its version, or None if there is no object. Raises StageError for other failures."""
    import obstore
    from obstore.exceptions import BaseError

    try:
        found = obstore.get(_store(storage), path)
        names = {"e_tag": found.meta["e_tag"], "version": found.meta["version"]}
        return bytes(found.bytes()), {key: name for key, name in names.items() if name is not None}
    except FileNotFoundError:
        return None
    except BaseError as error:
        raise StageError(explain(storage, "read", path, _reason(error))) from error


def replace_version(storage: Storage, path: str, data: bytes, version: Version | None) -> bool:
    """Replace the given version of an object (None: no object yet). Returns False if another write was first.

    A server that does not know conditional writes gets a plain one. Raises StageError for other failures.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError, NotSupportedError, PreconditionError

    mode: Any = dict(version) if version else "create"
    try:
        obstore.put(_store(storage), path, data, mode=mode)
    except (AlreadyExistsError, PreconditionError):
        # If the answer to a first attempt was lost, the existing object is the one that it wrote.
        now = read_version(storage, path)
        return now is not None and now[0] == data
    except (BaseError, FileNotFoundError) as error:
        if version and isinstance(error, FileNotFoundError):
            return False
        if not isinstance(error, NotSupportedError) and not _UNKNOWN.search(str(error)):
            raise StageError(explain(storage, "write", path, _reason(error))) from error
        storage.write(path, data)
    return True


def _reason(error: Exception) -> str:
    """The code and message of the server's answer, or the error's first line if there is no such answer."""
    text = str(error).partition("Debug source")[0]
    answer = re.search(r"<Code>(.*?)</Code>(?:.*?<Message>(.*?)</Message>)?", text, re.DOTALL)
    return one_line(Exception(": ".join(filter(None, answer.groups())) if answer else text))
