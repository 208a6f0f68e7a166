"""Checks of the root: write, read, list and delete. On S3, also the bucket, the credentials and missing rights."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from raypipe.config import Config
from raypipe.doctor.check_result import CheckResult, run_check
from raypipe.errors import StageError, one_line
from raypipe.storage import Storage, s3

_ROOT_ADVICE = "choose another --root, or fix its permissions"
_NEEDED_RIGHTS = ("s3:ListBucket", "s3:PutObject", "s3:GetObject", "s3:DeleteObject")
_S3_RIGHTS = f"{_NEEDED_RIGHTS[0]} on the bucket, {', '.join(_NEEDED_RIGHTS[1:])} on its objects"
_CLEANUP_RIGHTS = ("s3:ListBucketMultipartUploads", "s3:AbortMultipartUpload")
_DENIED = {"AccessDenied", "AllAccessDisabled", "Forbidden", "403"}


def check_root(config: Config) -> list[CheckResult]:
    """Try the root in the way stages use it. Files and folders of this trial are deleted again."""
    storage = config.open_storage()
    checks = [_check_bucket(storage)] if s3.is_s3(storage) else []
    if checks and checks[0].state == "ok":
        checks.append(check_rights(storage))
    advice = f"the credentials need {_S3_RIGHTS}" if checks else _ROOT_ADVICE
    checks.append(run_check("root", lambda: _write_read_delete(storage), advice))
    if checks[-1].state == "ok" and storage.is_local and os.environ.get("RAY_ADDRESS"):
        advice = "on a cluster of several machines, use a --root that all of them share: s3://, gs://, or a mount"
        checks.append(
            CheckResult("root on a cluster", "warn", f"{storage.path()} is local, RAY_ADDRESS is set", advice)
        )
    return checks


def _write_read_delete(storage: Storage) -> str:
    name, data = f"_doctor-{uuid.uuid4().hex[:8]}/probe", os.urandom(1024)
    absent = _absent_folders(storage)
    try:
        storage.write(name, data)
        if storage.read(name) != data:
            raise StageError(f"{storage.uri(name)}: returns other bytes than were written")
        if storage.files(name.split("/")[0]) != ["probe"]:
            raise StageError(f"{storage.uri(name)}: is not listed")
        storage.delete(name)
        storage.delete_directory(name.split("/")[0])
        if storage.exists(name):
            raise StageError(f"{storage.uri(name)}: still exists after its deletion")
    finally:
        for folder in absent:
            with contextlib.suppress(OSError):
                folder.rmdir()
    return f"{storage.root}: written, read, listed and deleted"


def _absent_folders(storage: Storage) -> list[Path]:
    # Folders that the trial will create, the deepest first.
    if not storage.is_local:
        return []
    root = Path(storage.path())
    return [folder for folder in (root, *root.parents) if not folder.exists()]


def _check_bucket(storage: Storage) -> CheckResult:
    def run_probe() -> str:
        import boto3

        bucket, _ = s3.location(storage)
        s3.client(storage).head_bucket(Bucket=bucket)
        credentials = boto3.Session(profile_name=storage.profile).get_credentials()
        return f"{bucket}: reachable; credentials: {credentials.method if credentials else 'none'}"

    advice = f"check the bucket's name and region, and credentials (storage.profile); they need {_S3_RIGHTS}"
    return run_check("bucket", run_probe, advice)


def check_rights(storage: Storage) -> CheckResult:
    """Try each right that stages use on an object under the root. The object is deleted again.

    Nothing works if one of `s3:ListBucket`, `s3:PutObject`, `s3:GetObject`, `s3:DeleteObject` is missing. Without the
    rights to unfinished uploads, uploads of killed runs stay and cost money.
    """
    bucket, prefix = s3.location(storage, f"_doctor-{uuid.uuid4().hex[:8]}/")
    probe = {"Bucket": bucket, "Key": f"{prefix}probe"}
    store, upload = s3.client(storage), {"UploadId": ""}

    def begin_upload() -> None:
        upload["UploadId"] = store.create_multipart_upload(**probe)["UploadId"]

    requests: list[tuple[str, Callable[[], object]]] = [
        ("s3:ListBucket", lambda: store.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)),
        ("s3:PutObject", lambda: store.put_object(**probe, Body=b"probe")),
        ("s3:GetObject", lambda: store.get_object(**probe)["Body"].read()),
        ("s3:DeleteObject", lambda: store.delete_object(**probe)),
        ("s3:PutObject", begin_upload),
        ("s3:ListBucketMultipartUploads", lambda: store.list_multipart_uploads(Bucket=bucket, Prefix=prefix)),
        ("s3:AbortMultipartUpload", lambda: store.abort_multipart_upload(**probe, **upload)),
    ]
    from botocore.exceptions import BotoCoreError, ClientError

    missing: list[str] = []
    for action, send_request in requests:
        # After a refused put there is no object to read or delete, and no upload to abort.
        if "s3:PutObject" in missing and action not in ("s3:ListBucket", "s3:ListBucketMultipartUploads"):
            continue
        try:
            send_request()
        except ClientError as error:
            if s3.error_code(error) in _DENIED:
                missing.append(action)
            elif s3.is_unsupported(error) and action in _CLEANUP_RIGHTS:
                continue
            else:
                return CheckResult(
                    "rights", "fail", f"{action}: {one_line(error)}", f"the credentials need {_S3_RIGHTS}"
                )
        except BotoCoreError as error:
            return CheckResult("rights", "fail", f"{action}: {one_line(error)}", "check that the store answers")
    return _rights(bucket, list(dict.fromkeys(missing)))


def _rights(bucket: str, missing: list[str]) -> CheckResult:
    if not missing:
        return CheckResult("rights", "ok", f"{bucket}: {', '.join((*_NEEDED_RIGHTS, *_CLEANUP_RIGHTS))}")
    seen = f"{bucket}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} denied"
    if set(missing) <= set(_CLEANUP_RIGHTS):
        advice = f"allow {' and '.join(missing)}, or let a lifecycle rule of the bucket abort incomplete uploads"
        return CheckResult("rights", "warn", seen, advice)
    return CheckResult("rights", "fail", seen, f"allow {' and '.join(missing)} to these credentials")
