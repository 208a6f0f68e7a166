"""Whether the root can be written, read, listed and cleared, and on S3 whose bucket it is."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Any

from raypipe.config import Config
from raypipe.doctor.check import Check, attempt
from raypipe.errors import StageError
from raypipe.storage import Storage

_MEND = "choose another --root, or mend its permissions"
_S3_RIGHTS = "s3:ListBucket on the bucket, s3:GetObject, s3:PutObject, s3:DeleteObject on its objects"


def check_root(config: Config) -> list[Check]:
    """The root as stages use it; nothing of the trial is left behind."""
    storage = config.open_storage()
    checks = [_check_bucket(config)] if config.root.startswith("s3://") else []
    advice = f"the credentials need {_S3_RIGHTS}" if checks else _MEND
    checks.append(attempt("root", lambda: _write_read_delete(storage), advice))
    if checks[-1].state == "ok" and storage.is_local and os.environ.get("RAY_ADDRESS"):
        advice = "on a cluster of several machines, give a --root that all of them share: s3://, gs://, or a mount"
        checks.append(Check("root on a cluster", "warn", f"{storage.path()} is local, RAY_ADDRESS is set", advice))
    return checks


def _write_read_delete(storage: Storage) -> str:
    name, data = f"_doctor-{uuid.uuid4().hex[:8]}/probe", os.urandom(1024)
    absent = _absent_folders(storage)
    try:
        storage.write(name, data)
        if storage.read(name) != data:
            raise StageError(f"{storage.uri(name)}: reads back other bytes than were written")
        if storage.files(name.split("/")[0]) != ["probe"]:
            raise StageError(f"{storage.uri(name)}: is not listed")
        storage.delete(name)
        storage.delete_directory(name.split("/")[0])
        if storage.exists(name):
            raise StageError(f"{storage.uri(name)}: is still there after its deletion")
    finally:
        for folder in absent:
            with contextlib.suppress(OSError):
                folder.rmdir()
    return f"{storage.root}: written, read, listed and deleted"


def _absent_folders(storage: Storage) -> list[Path]:
    # Deepest first: what the trial will have made.
    if not storage.is_local:
        return []
    root = Path(storage.path())
    return [folder for folder in (root, *root.parents) if not folder.exists()]


def _check_bucket(config: Config) -> Check:
    def look() -> str:
        import boto3

        options = config.storage
        session = boto3.Session(profile_name=options.profile, region_name=options.region)
        client: Any = session.client("s3", endpoint_url=options.endpoint)
        bucket, _, prefix = config.root.removeprefix("s3://").partition("/")
        client.head_bucket(Bucket=bucket)
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        credentials = session.get_credentials()
        return f"{bucket}: reachable and listed; credentials from {credentials.method if credentials else 'nowhere'}"

    advice = f"check the bucket's name and region, and credentials (storage.profile); they need {_S3_RIGHTS}"
    return attempt("bucket", look, advice)
