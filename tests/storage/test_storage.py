"""Storage on a local disk and on S3: files are written completely or not at all, and each error is one line."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import StageError
from raypipe.storage import Storage
from tests.hostile import LEADS_OUT

NAMES = st.text("abcXYZ019-_", min_size=1, max_size=8)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.fixture
def s3(s3_endpoint: str, request: pytest.FixtureRequest) -> Storage:
    return Storage(f"s3://bucket/{request.node.name}", endpoint=s3_endpoint, region="us-east-1")


def check_round_trip(storage: Storage) -> None:
    assert storage.files("t") == []
    assert not storage.exists("t/a.bin")
    storage.write("t/a.bin", b"one")
    storage.write("t/deep/er/b.bin", memoryview(b"three"))
    assert storage.read("t/a.bin") == b"one"
    assert storage.size("t/deep/er/b.bin") == 5
    assert storage.files("t") == ["a.bin", "deep/er/b.bin"]
    storage.write("t/a.bin", b"again")
    assert storage.read("t/a.bin") == b"again"
    storage.move("t/a.bin", "t/deep/a.bin")
    assert storage.files("t") == ["deep/a.bin", "deep/er/b.bin"]
    assert storage.read("t/deep/a.bin") == b"again"
    storage.delete("t/deep/a.bin")
    storage.delete("t/deep/a.bin")
    with pytest.raises(FileNotFoundError):
        storage.read("t/deep/a.bin")
    storage.delete_directory("t")
    storage.delete_directory("t")
    assert storage.files("t") == []


def test_local_round_trip(storage: Storage) -> None:
    assert storage.is_local
    check_round_trip(storage)


@pytest.mark.cluster
def test_s3_round_trip(s3: Storage) -> None:
    assert not s3.is_local
    check_round_trip(s3)


@pytest.mark.cluster
def test_missing_bucket_raises_one_line_error(s3_endpoint: str) -> None:
    storage = Storage("s3://no-such-bucket/run", endpoint=s3_endpoint, region="us-east-1")
    with pytest.raises(StageError, match=r"^s3://no-such-bucket/run/t/a: cannot write: "):
        storage.write("t/a", b"x")


@pytest.mark.cluster
@pytest.mark.usefixtures("s3_endpoint")
def test_unreachable_endpoint_raises_one_line_error(free_port: int) -> None:
    storage = Storage("s3://bucket/run", endpoint=f"http://127.0.0.1:{free_port}", region="us-east-1")
    with pytest.raises(StageError, match=r"^s3://bucket/run/t/_run.json: cannot find: ") as caught:
        storage.exists("t/_run.json")
    assert "\n" not in str(caught.value)


@given(files=st.dictionaries(st.tuples(NAMES, NAMES), st.binary(max_size=64), max_size=6))
def test_files_lists_exactly_what_was_written(tmp_path_factory: pytest.TempPathFactory, files) -> None:
    storage = Storage(str(tmp_path_factory.mktemp("root")))
    for (folder, name), data in files.items():
        storage.write(f"t/{folder}/{name}", data)
    assert storage.files("t") == sorted(f"{folder}/{name}" for folder, name in files)
    assert {tuple(f.split("/")): storage.read(f"t/{f}") for f in storage.files("t")} == files


def test_file_uri_and_path_are_the_same_root(tmp_path: Path) -> None:
    Storage(f"{tmp_path.as_uri()}/root/").write("t/a", b"x")
    assert Storage(f"{tmp_path}/root/").read("t/a") == b"x"
    assert Storage(f"{tmp_path}/root").is_local
    assert Storage(f"{tmp_path.as_uri()}/root").is_local


def test_pickled_relative_root_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Storage("run")
    relative.write("t/a", b"x")
    assert relative.uri("t", "a") == "run/t/a"
    sent = pickle.dumps(relative)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert pickle.loads(sent).read("t/a") == b"x"


def test_pickling_keeps_where_the_store_is() -> None:
    storage = Storage("s3://bucket/x", endpoint="http://127.0.0.1:9", region="eu-west-1", profile="p")
    assert pickle.loads(pickle.dumps(storage)) == storage


def test_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Storage("~/run").write("a", b"x")
    assert (tmp_path / "run" / "a").read_bytes() == b"x"


def test_failed_write_keeps_old_file(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write("t/a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StageError, match=r"t/a: cannot write: No space left on device; free space or choose"):
        storage.write("t/a", b"new")
    assert storage.read("t/a") == b"old"
    assert storage.files("t") == ["a"]


def test_temporary_files_are_hidden_and_deletable(storage: Storage) -> None:
    storage.write("t/a", b"x")
    Path(storage.path("t", "_a.0123abcd.tmp")).write_bytes(b"half")
    Path(storage.path("t", "_model.json")).write_bytes(b"{}")
    storage.delete_temporaries("t")
    assert storage.files("t") == ["_model.json", "a"]


def test_root_below_regular_file_raises_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    storage = Storage(str(tmp_path / "file" / "run"))
    assert not storage.exists("t/_run.json")
    assert storage.files("t") == []
    storage.delete("t/a")
    storage.delete_directory("t")
    with pytest.raises(StageError, match=r"file/run/t/a: cannot write: .*; choose another --root or fix"):
        storage.write("t/a", b"x")
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_raises_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StageError, match="Permission denied; choose another --root or fix its permissions"):
            Storage(str(tmp_path / "run")).write("t/a", b"x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("root", ["nosuch://bucket/x", "hdfs2://a/b"])
def test_unknown_scheme_raises_error(root: str) -> None:
    with pytest.raises(StageError, match=f"^root {root}: cannot be opened: "):
        Storage(root).exists("t")


def test_unknown_profile_error_gives_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("[profile empty]\nregion = eu-west-1\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StageError, match=r"storage\.profile empty: has no credentials; run `aws configure"):
        Storage("s3://bucket/x", profile="empty").exists("t")
    with pytest.raises(StageError, match=r"storage\.profile nosuch: "):
        Storage("s3://bucket/x", profile="nosuch").exists("t")


@pytest.mark.cluster
def test_full_disk_raises_error(small_disk: Path) -> None:
    storage = Storage(str(small_disk / "run"))
    storage.write("t/a", bytes(600_000))
    with pytest.raises(StageError, match=r"run/t/b: cannot write: No space left on device; free space"):
        storage.write("t/b", bytes(600_000))
    assert storage.files("t") == ["a"]
    storage.write("t/c", b"small files still fit")


@pytest.mark.parametrize("path", LEADS_OUT)
def test_paths_outside_the_root_are_refused(storage: Storage, tmp_path: Path, path: str) -> None:
    (tmp_path / "x").write_bytes(b"mine")
    storage.write("a/b", b"")
    actions: list[Callable[[str], object]] = [
        storage.path, storage.exists, storage.read, storage.files, storage.size, storage.delete,
        storage.delete_directory, storage.delete_temporaries, storage.prune, lambda p: storage.write(p, b""),
        lambda p: storage.move("a/b", p), lambda p: storage.move(p, "a/c"), lambda p: storage.path("a", p),
    ]  # fmt: skip
    for action in actions:
        with pytest.raises(StageError, match=r"is outside of this root$"):
            action(path)
    assert (tmp_path / "x").read_bytes() == b"mine"
    assert storage.files("") == ["a/b"]


def test_names_containing_two_dots_are_allowed(storage: Storage) -> None:
    storage.write("a..b/..c", b"x")
    assert storage.files("a..b") == ["..c"]
