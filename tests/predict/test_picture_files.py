"""Pictures behind paths are stamped at the start and checked again when they are read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import boto3
import pytest

from raypipe.errors import StageError
from raypipe.pictures.decoding import Undecodable
from raypipe.predict import picture_files
from raypipe.predict.inputs import find_pictures
from raypipe.predict.picture_files import InputPicture, add_file_info, parse_path, pictures_fingerprint, read_picture
from raypipe.storage import Storage
from tests.s3_faults import S3Faults

HERE = Storage("root")


def stamped(*paths: object, storage: Storage = HERE) -> list[InputPicture]:
    return add_file_info([parse_path(str(path)) for path in paths], storage)


def print_of(*paths: object, storage: Storage = HERE) -> str:
    return pictures_fingerprint(stamped(*paths, storage=storage))


def overwrite(path: Path, data: bytes) -> None:
    """Write other bytes of the same length and keep the modification time, as `cp -p` may do."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two files."""
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(name.encode() * 9)
    return tmp_path / "a.jpg", tmp_path / "b.jpg"


def test_small_inputs_are_fingerprinted_by_contents(pair: tuple[Path, Path]) -> None:
    before = print_of(*pair)
    pair[0].touch()
    assert print_of(*pair) == before
    overwrite(pair[0], b"c" * 9)
    assert print_of(*pair) != before
    overwrite(pair[0], b"a" * 9)
    assert print_of(*pair) == before
    assert print_of(*reversed(pair)) != before
    assert print_of(pair[0]) != before


def test_large_inputs_are_fingerprinted_by_size_and_time(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "_HASHED_BYTES", 10)
    before = print_of(*pair)
    assert print_of(*pair) == before
    os.utime(pair[0], ns=(1, 1))
    touched = print_of(*pair)
    assert touched != before
    pair[0].write_bytes(b"a" * 10)
    os.utime(pair[0], ns=(1, 1))
    assert print_of(*pair) not in (before, touched)


def test_added_or_removed_file_changes_fingerprint(pair: tuple[Path, Path]) -> None:
    before = print_of(*pair)
    pair[1].unlink()
    without = print_of(*pair)
    assert without != before
    pair[1].write_bytes(b"b" * 9)
    assert print_of(*pair) == before


def test_unusable_files_get_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_files, "_MOST_BYTES", 1000)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "large.jpg").write_bytes(b"x" * 1001)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    names = ["absent.jpg", "folder.jpg", "empty.jpg", "large.jpg", "pipe.jpg", "loop.jpg", "n" * 300, "a/b.jpg"]
    found = stamped(*(tmp_path / name for name in names), "/dev/zero", "a\0b", "a\ud800b", "http://host/a.jpg")
    assert [picture.reason for picture in found] == [
        "there is no such file",
        "is a folder",
        "is empty",
        "is too large: 1,001 bytes, 1,000 are allowed",
        "is no regular file",
        "cannot be read: Too many levels of symbolic links",
        "cannot be read: File name too long",
        "there is no such file",
        "is no regular file",
        "a path cannot hold a NUL character",
        found[10].reason,
        "http:// is not read by predict; fetch it with `raypipe ingest`",
    ]
    assert "surrogates not allowed" in str(found[10].reason)
    assert [read_picture(picture, HERE) for picture in found] == [Undecodable(str(one.reason)) for one in found]
    assert len(pictures_fingerprint(found)) == 64


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_file_gets_a_reason(pair: tuple[Path, Path]) -> None:
    pair[0].chmod(stat.S_IWUSR)
    (found,) = stamped(pair[0])
    assert read_picture(found, HERE) == Undecodable("cannot be read: Permission denied")
    assert len(pictures_fingerprint([found])) == 64


def test_file_changed_during_run_is_not_read(pair: tuple[Path, Path]) -> None:
    first, second = stamped(*pair)
    assert read_picture(first, HERE) == b"a" * 9
    pair[0].write_bytes(b"a" * 10)
    os.utime(pair[1], ns=(1, 1))
    changed = Undecodable("changed while predict ran; run it again with --overwrite")
    assert [read_picture(one, HERE) for one in (first, second)] == [changed, changed]
    pair[0].unlink()
    assert read_picture(first, HERE) == Undecodable("there is no such file")


def test_file_uri_is_read_as_path(pair: tuple[Path, Path]) -> None:
    (found,) = stamped(f"file://{pair[0]}")
    assert (found.path, found.location) == (f"file://{pair[0]}", str(pair[0]))
    assert read_picture(found, HERE) == b"a" * 9


@pytest.fixture
def store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Storage:
    """A root on S3, and a bucket with pictures in one folder: few to write, but enough to be listed."""
    monkeypatch.setattr(picture_files, "_WORTH_LISTING", 3)
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    for i in range(4):
        client.put_object(Bucket="bucket", Key=f"pictures/{i}.jpg", Body=b"%03d" % i)
    client.put_object(Bucket="bucket", Key="pictures/deep/a?b%20c.jpg", Body=b"x")
    client.put_object(Bucket="bucket", Key="pictures/list.csv", Body=b"path\n0.jpg\nabsent.jpg\ns3://nobucket/x.jpg\n")
    return Storage("s3://bucket/root", s3_endpoint, "us-east-1")


def test_folder_in_object_store_is_listed(store: Storage) -> None:
    found = find_pictures(["s3://bucket/pictures"], store).pictures
    assert [one.path.removeprefix("s3://bucket/pictures/") for one in found] == [
        *("0.jpg", "1.jpg", "2.jpg", "3.jpg", "deep/a?b%20c.jpg")
    ]
    # The listing already gave size and time.
    assert add_file_info(found, store) == found
    assert [read_picture(one, store) for one in found] == [b"000", b"001", b"002", b"003", b"x"]


def test_manifest_in_object_store_is_read(store: Storage) -> None:
    found = add_file_info(find_pictures(["s3://bucket/pictures/list.csv"], store).pictures, store)
    assert [(one.path, one.reason) for one in found] == [
        ("s3://bucket/pictures/0.jpg", None),
        ("s3://bucket/pictures/absent.jpg", "there is no such file"),
        ("s3://nobucket/x.jpg", "there is no such file"),
    ]


def test_listing_and_single_requests_give_equal_stamps(store: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = [f"s3://bucket/pictures/{i}.jpg" for i in range(5)]
    listed = stamped(*uris, storage=store)
    monkeypatch.setattr(picture_files, "_WORTH_LISTING", 1000)
    assert stamped(*uris, storage=store) == listed
    assert listed[4].reason == "there is no such file"
    assert listed[3].size == 3


def test_replaced_object_changes_fingerprint(store: Storage, s3_endpoint: str) -> None:
    uri = "s3://bucket/pictures/0.jpg"
    (before,) = stamped(uri, storage=store)
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    client.put_object(Bucket="bucket", Key="pictures/0.jpg", Body=b"other")
    (after,) = stamped(uri, storage=store)
    assert pictures_fingerprint([before]) != pictures_fingerprint([after])
    assert read_picture(after, store) == b"other"
    assert read_picture(before, store) == Undecodable("changed while predict ran; run it again with --overwrite")
    client.delete_object(Bucket="bucket", Key="pictures/0.jpg")
    assert read_picture(after, store) == Undecodable("there is no such file")


@pytest.mark.usefixtures("store")
def test_unanswering_store_raises_stage_error(s3_faults: S3Faults) -> None:
    uri, through = "s3://bucket/pictures/0.jpg", Storage("s3://bucket/root", s3_faults.endpoint, "us-east-1")
    (known,) = stamped(uri, storage=through)
    # An error that means "no answer" and is not retried for seconds.
    s3_faults.fail(r"0\.jpg", status=400, code="InvalidRequest")
    with pytest.raises(StageError, match=r"0.jpg: cannot be read: .*; when the store answers again, run the same"):
        stamped(uri, storage=through)
    with pytest.raises(StageError, match="when the store answers again"):
        read_picture(known, through)


@pytest.mark.usefixtures("store")
def test_denied_object_gets_a_reason(s3_faults: S3Faults) -> None:
    uri, through = "s3://bucket/pictures/0.jpg", Storage("s3://bucket/root", s3_faults.endpoint, "us-east-1")
    (known,) = stamped(uri, storage=through)
    s3_faults.fail(r"0\.jpg", status=403, code="AccessDenied")
    denied, other = stamped(uri, "s3://bucket/pictures/1.jpg", storage=through)
    assert str(denied.reason).startswith("cannot be read: ")
    assert "ACCESS_DENIED" in str(denied.reason)
    assert other.reason is None
    found = read_picture(known, through)
    assert isinstance(found, Undecodable)
    assert "ACCESS_DENIED" in found.reason
