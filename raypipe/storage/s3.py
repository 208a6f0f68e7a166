"""What pyarrow's S3 file system does not offer, over boto3: unfinished uploads, and puts that only one can win.

Only for roots that start with ``s3://``; elsewhere every function says so by doing nothing.
"""

from __future__ import annotations

import functools
from typing import Any

from raypipe.errors import StageError, one_line
from raypipe.storage import Storage, explain

_ATTEMPTS = 5
# What servers that do not know a request or one of its headers answer.
_UNKNOWN = {"NotImplemented", "MethodNotAllowed", "501", "405"}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT = {"NoSuchKey", "NoSuchUpload", "404"}


def is_s3(storage: Storage) -> bool:
    """Whether the root is a bucket, or a prefix in one."""
    return storage.root.startswith("s3://")


@functools.lru_cache(maxsize=8)
def client(storage: Storage) -> Any:
    """A boto3 client for the root's endpoint, region and profile; StageError where there is no such profile."""
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


def code_of(error: Any) -> str:
    """The code of a botocore ClientError: ``AccessDenied``, or the HTTP status where the answer had no body."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_unknown(error: Any) -> bool:
    """Whether a ClientError says that the server does not know the request or one of its headers."""
    return code_of(error) in _UNKNOWN


def abort_uploads(storage: Storage, directory: str) -> int:
    """Abort the unfinished multipart uploads below `directory`, which cost money and are never seen; how many.

    A server that does not know the request, or a user without the right to it, is no error: nothing depends on it.
    Raises StageError where the server does not answer.
    """
    if not is_s3(storage):
        return 0
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = location(storage, directory)
    # With the slash: `images2/` is another table.
    prefix = f"{key.rstrip('/')}/".removeprefix("/")
    store, aborted = client(storage), 0
    try:
        for page in store.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for upload in page.get("Uploads", []):
                # Not every server goes by the prefix.
                if upload["Key"].startswith(prefix):
                    store.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                    aborted += 1
    except ClientError:
        return aborted
    except BotoCoreError as error:
        raise StageError(explain(storage, "list", directory, one_line(error))) from error
    return aborted


def read_version(storage: Storage, path: str) -> tuple[bytes, str] | None:
    """The bytes of an object and the mark of its version, None where there is none."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = location(storage, path)
    try:
        answer = client(storage).get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ETag"]
    except ClientError as error:
        if code_of(error) in _ABSENT:
            return None
        raise StageError(explain(storage, "read", path, one_line(error))) from error
    except BotoCoreError as error:
        raise StageError(explain(storage, "read", path, one_line(error))) from error


def replace_version(storage: Storage, path: str, data: bytes, version: str | None) -> bool:
    """Put an object in place of `version`, or where there is none; False where another was there first.

    A server that knows no conditional puts gets a plain one.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, key = location(storage, path)
    condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
    try:
        client(storage).put_object(Bucket=bucket, Key=key, Body=data, **condition)
    except ClientError as error:
        if is_unknown(error):
            storage.write(path, data)
        elif code_of(error) in _TAKEN | _ABSENT:
            # The answer to a first attempt may have been lost, and its object be the one that is in the way.
            now = read_version(storage, path)
            return now is not None and now[0] == data
        else:
            raise StageError(explain(storage, "write", path, one_line(error))) from error
    except BotoCoreError as error:
        raise StageError(explain(storage, "write", path, one_line(error))) from error
    return True
