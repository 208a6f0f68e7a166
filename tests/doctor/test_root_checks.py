"""Checks of the root: it is written, read, listed and cleared, and left unchanged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.doctor.root_checks import check_root
from raypipe.storage import s3
from tests.s3_faults import S3Faults


def s3_config(endpoint: str, bucket: str) -> Config:
    return load_config(root=f"s3://{bucket}/doctor", storage={"endpoint": endpoint, "region": "us-east-1"})


def test_checking_a_new_root_creates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (check,) = check_root(load_config(root=str(tmp_path / "a" / "b")))
    assert (check.state, check.detail) == ("ok", f"{tmp_path}/a/b: written, read, listed and deleted")
    assert list(tmp_path.iterdir()) == []


def test_existing_root_is_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "posts").mkdir()
    (tmp_path / "posts" / "_run.json").write_text("{}")
    (check,) = check_root(load_config(root=str(tmp_path)))
    assert check.state == "ok"
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["posts", "posts/_run.json"]


def test_a_root_below_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (check,) = check_root(load_config(root=str(tmp_path / "file" / "run")))
    assert check.state == "fail"
    assert "cannot write: Not a directory" in check.detail
    assert (tmp_path / "file").read_text() == "x"


def test_an_unknown_scheme_fails() -> None:
    (check,) = check_root(load_config(root="nosuch://bucket/x"))
    assert check.state == "fail"
    assert check.detail.startswith("root nosuch://bucket/x: cannot be opened: ")


def test_a_local_root_on_a_cluster_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    checks = check_root(load_config(root=str(tmp_path)))
    assert [check.state for check in checks] == ["ok", "warn"]
    assert "s3://" in checks[1].advice


RIGHTS = [
    ("s3:ListBucket", "GET .*list-type=2.*_doctor", "fail"),
    ("s3:PutObject", "PUT .*_doctor", "fail"),
    ("s3:GetObject", "GET .*_doctor-.*/probe", "fail"),
    ("s3:DeleteObject", "DELETE .*_doctor-.*/probe$", "fail"),
    ("s3:ListBucketMultipartUploads", "GET .*uploads", "warn"),
    ("s3:AbortMultipartUpload", "DELETE .*uploadId", "warn"),
]


@pytest.mark.cluster
def test_usable_bucket_passes_all_checks(s3_endpoint: str) -> None:
    bucket, rights, root = check_root(s3_config(s3_endpoint, "bucket"))
    assert (bucket.state, rights.state, root.state) == ("ok", "ok", "ok"), (bucket, rights, root)
    assert bucket.detail == "bucket: reachable; credentials: env"
    assert rights.detail == f"bucket: {', '.join(action for action, _, _ in RIGHTS)}"
    storage = s3_config(s3_endpoint, "bucket").open_storage()
    assert storage.files("") == []
    found = s3.client(storage).list_multipart_uploads(Bucket="bucket", Prefix="doctor/")
    assert "Uploads" not in found


@pytest.mark.cluster
@pytest.mark.parametrize(("action", "requests", "state"), RIGHTS)
def test_a_missing_right_is_named(s3_faults: S3Faults, action: str, requests: str, state: str) -> None:
    denied = s3_faults.fail(requests, status=403, code="AccessDenied")
    bucket, rights, root = check_root(s3_config(s3_faults.endpoint, "bucket"))
    s3_faults.heal()
    storage = s3_config(s3_faults.endpoint, "bucket").open_storage()
    storage.delete_directory("")
    s3.abort_uploads(storage, "")
    assert denied.hits > 0
    assert (bucket.state, rights.state) == ("ok", state)
    assert rights.detail == f"bucket: {action} is denied"
    assert action in rights.advice
    if state == "warn":
        assert root.state == "ok"


@pytest.mark.cluster
def test_several_missing_rights_are_all_named(s3_faults: S3Faults) -> None:
    for requests in ("GET .*_doctor-.*/probe", "GET .*uploads"):
        s3_faults.fail(requests, status=403, code="AccessDenied")
    rights = check_root(s3_config(s3_faults.endpoint, "bucket"))[1]
    assert (rights.state, rights.detail) == (
        "fail",
        "bucket: s3:GetObject and s3:ListBucketMultipartUploads are denied",
    )


@pytest.mark.cluster
def test_server_without_multipart_listing_passes(s3_faults: S3Faults) -> None:
    s3_faults.fail("GET .*uploads", status=501, code="NotImplemented")
    assert [check.state for check in check_root(s3_config(s3_faults.endpoint, "bucket"))] == ["ok", "ok", "ok"]


@pytest.mark.cluster
def test_unreachable_store_fails(s3_faults: S3Faults) -> None:
    s3_faults.down()
    bucket, root = check_root(s3_config(s3_faults.endpoint, "bucket"))
    assert (bucket.state, root.state) == ("fail", "fail")
    assert s3_faults.endpoint in bucket.detail
    assert "answers again" in root.detail


@pytest.mark.cluster
def test_missing_bucket_fails(s3_endpoint: str) -> None:
    bucket, root = check_root(s3_config(s3_endpoint, "no-such-bucket"))
    assert (bucket.state, root.state) == ("fail", "fail")
    assert "404" in bucket.detail
    assert "s3:PutObject" in bucket.advice
    assert "s3:PutObject" in root.advice


def test_unknown_profile_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    bucket, root = check_root(load_config(root="s3://bucket/x", storage={"profile": "nosuch"}))
    assert (bucket.state, root.state) == ("fail", "fail")
    assert "nosuch" in bucket.detail
    assert "nosuch" in root.detail
