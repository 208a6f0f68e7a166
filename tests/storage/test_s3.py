"""The use of boto3: finding and aborting unfinished uploads, over real HTTP."""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import pytest

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage, s3
from tests.s3_faults import S3Faults
from tests.table_runs import begin, complete, ids_of, interrupt


@pytest.fixture
def storage(s3_faults: S3Faults) -> Storage:
    return Storage(f"s3://bucket/{uuid.uuid4().hex}", endpoint=s3_faults.endpoint, region="us-east-1")


def begin_upload(storage: Storage, path: str) -> None:
    bucket, key = s3.location(storage, path)
    store = s3.client(storage)
    upload = store.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    store.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x")


def uploads(storage: Storage) -> list[str]:
    """Unfinished uploads below the root."""
    bucket, root = s3.location(storage, "")
    found = s3.client(storage).list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return sorted(each["Key"].removeprefix(root) for each in found if each["Key"].startswith(root))


def test_local_root_has_no_uploads_to_abort(tmp_path: Path) -> None:
    assert s3.abort_uploads(Storage(str(tmp_path)), "labels") == 0


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("s3://bucket/a/b", "labels/x", ("bucket", "a/b/labels/x")),
        ("s3://bucket/a/", "labels/", ("bucket", "a/labels/")),
        ("s3://bucket", "labels", ("bucket", "labels")),
        ("s3://bucket", "", ("bucket", "")),
    ],
)
def test_bucket_and_key(root: str, path: str, expected: tuple[str, str]) -> None:
    assert s3.location(Storage(root), path) == expected


@pytest.mark.cluster
def test_only_uploads_of_starting_table_are_aborted(storage: Storage) -> None:
    others = ["images/_staging/x/part", "labels.old/part", "labels2/part"]
    mine = ["labels/_staging/x/part", "labels/predictions/part"]
    for name in others + mine:
        begin_upload(storage, name)
    assert uploads(storage) == sorted(others + mine)
    with begin(storage) as run:
        assert uploads(storage) == others
        begin_upload(storage, "labels/_staging/x/part")
        run.writer.write_file("_model.json", b"{}")
        run.commit(rows_in=0)
    # Uploads that are left when the table is complete do not belong to it.
    assert uploads(storage) == others


@pytest.mark.cluster
def test_uploads_are_aborted_on_resume_and_drop(storage: Storage) -> None:
    interrupt(storage, "a")
    begin_upload(storage, "labels/_staging/x/part")
    with begin(storage) as run:
        assert run.resumed
        assert uploads(storage) == []
        run.commit(rows_in=1)
    with contextlib.suppress(KeyboardInterrupt), begin(storage, overwrite=True):
        begin_upload(storage, "labels/_staging/x/part")
        raise KeyboardInterrupt
    assert uploads(storage) == []
    assert ids_of(storage) == ["a"]


@pytest.mark.cluster
def test_complete_table_is_not_checked_for_uploads(storage: Storage, s3_faults: S3Faults) -> None:
    complete(storage, "a")
    s3_faults.seen.clear()
    assert begin(storage).record is not None
    assert s3_faults.seen["GET ?uploads"] == 0


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (403, "AccessDenied"), (405, "MethodNotAllowed")]
)
def test_server_without_upload_listing_is_accepted(
    storage: Storage, s3_faults: S3Faults, status: int, code: str
) -> None:
    fault = s3_faults.fail("GET .*uploads", status=status, code=code)
    complete(storage, "a")
    assert fault.hits == 2
    assert tables.get_record(storage, "labels").rows_out == 1


def test_unknown_profile_raises_one_line_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StageError, match=r"root s3://bucket/x: cannot be opened: .*nosuch"):
        s3.client(Storage("s3://bucket/x", profile="nosuch"))
