"""Requests to S3 that neither pyarrow nor obstore offers, by boto3: finding and aborting unfinished uploads.

Only for roots that start with ``s3://``. `abort_uploads` does nothing for other roots.
"""

from __future__ import annotations

import functools
from typing import Any

from raypipe.errors import StageError, one_line
from raypipe.storage import Storage, explain

_ATTEMPTS = 5
# Error codes of servers that do not know a request or one of its headers.
_UNSUPPORTED_CODES = {"NotImplemented", "MethodNotAllowed", "501", "405"}


def is_s3(storage: Storage) -> bool:
    """Whether the root is an S3 bucket, or a prefix in one."""
    return storage.root.startswith("s3://")


@functools.lru_cache(maxsize=8)
def client(storage: Storage) -> Any:
    """A boto3 client for the root's endpoint, region and profile. Raises StageError if it cannot be made."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    try:
        session = boto3.Session(profile_name=storage.profile, region_name=storage.region)
        retries = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
        return session.client("s3", endpoint_url=storage.endpoint, config=Config(retries=retries))
    except (BotoCoreError, ValueError) as error:
        raise StageError(f"root {storage.root}: cannot be opened: {one_line(error)}") from error


def location(storage: Storage, path: str = "") -> tuple[str, str]:
    """The bucket and the key (or prefix) of a path relative to the root."""
    bucket, _, key = storage.uri(path).removeprefix("s3://").partition("/")
    return bucket, key


def error_code(error: Any) -> str:
    """The code of a botocore ClientError: ``AccessDenied``, for example. If the answer had no body, the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_unsupported(error: Any) -> bool:
    """Whether a ClientError says that the server does not know the request or one of its headers."""
    return error_code(error) in _UNSUPPORTED_CODES


def abort_uploads(storage: Storage, directory: str) -> int:
    """Abort the unfinished multipart uploads below `directory`, which cost money and are invisible. Returns how many.

    No-op for other stores. No error if the server does not know the request or the user lacks the right to it, because
    nothing depends on it. Raises StageError if the server does not answer.
    """
    if not is_s3(storage):
        return 0
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = location(storage, directory)
    # The prefix ends with a slash, because `images2/` is another table.
    prefix = f"{key.rstrip('/')}/".removeprefix("/")
    store, aborted = client(storage), 0
    try:
        for page in store.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                # Some servers ignore the prefix.
                if upload["Key"].startswith(prefix):
                    store.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    aborted += 1
    except ClientError:
        return aborted
    except BotoCoreError as error:
        raise StageError(explain(storage, "list", directory, one_line(error))) from error
    return aborted
