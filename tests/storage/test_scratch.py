"""The private scratch folder: private, bounded, sets in use are kept, and kills do no harm."""

from __future__ import annotations

import os
import pickle
import stat
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raypipe.config.load import load_config
from raypipe.errors import StageError
from raypipe.storage.scratch import Lease, NoRoomError, Scratch

FILES = ("a", "b")


def missing(n_bytes: int) -> Callable[[Path], dict[str, int]]:
    """A function that gives the missing ones of two files of half the bytes each."""

    def look(folder: Path) -> dict[str, int]:
        return {name: n_bytes // 2 for name in FILES if not (folder / name).exists()}

    return look


def hold(scratch: Scratch, name: str, n_bytes: int = 1000, at: float | None = None) -> Lease:
    """Hold a set of two files. `at` sets the time of last use in seconds."""
    lease = scratch.hold(name, missing(n_bytes), lambda _, path: path.write_bytes(bytes(n_bytes // 2)) and None)
    if at is not None:
        os.utime(lease.folder / ".lock", (at, at))
    return lease


def names(scratch: Scratch) -> list[str]:
    return sorted(path.name for path in scratch.folder().iterdir() if path.name != ".room")


def test_folder_is_private_to_user(scratch: Scratch, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        lease = hold(scratch, "x")
    finally:
        os.umask(before)
    folder = scratch.folder()
    assert folder == tmp_path / "disk" / f"raypipe-{os.geteuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(lease.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((lease.folder / ".lock").stat().st_mode) == 0o600


def test_default_folder_is_in_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert Scratch().usage().folder == Scratch().folder() == tmp_path / "home" / ".cache" / "raypipe"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert Scratch().folder() == tmp_path / "home" / ".cache" / "raypipe"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Scratch().folder() == tmp_path / "cache" / "raypipe"


def test_folder_is_in_temporary_directory_without_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert Scratch().usage().folder == Scratch().folder() == tmp_path / "tmp" / f"raypipe-{os.geteuid()}"
    with pytest.raises(
        StageError, match=r"raypipe-\d+: (File exists|Not a directory); choose another --storage.scratch DIR"
    ):
        Scratch(str(tmp_path / "home")).folder()


def test_folder_avoids_cache_directory_writable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, mode in (("cache", 0o777), ("tmp", 0o1777)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for _ in range(2):
        assert Scratch().usage().folder == tmp_path / "tmp" / f"raypipe-{os.geteuid()}"
        assert Scratch().folder() == tmp_path / "tmp" / f"raypipe-{os.geteuid()}"
    assert list((tmp_path / "cache").iterdir()) == []
    for use in (Scratch(str(tmp_path / "cache")).folder, Scratch(str(tmp_path / "cache")).usage):
        with pytest.raises(StageError, match=r"cache is writable by every user \(mode 0777\).*--storage.scratch DIR"):
            use()


@pytest.mark.parametrize("place", ["/proc/x", "/proc", "/dev/null", "/dev/null/x"])
def test_impossible_place_raises_error(place: str) -> None:
    scratch = Scratch(place)
    for use in (scratch.usage, scratch.folder):
        with pytest.raises(StageError, match=rf"no folder for scratch files: {place}/raypipe-\d+: .*choose another"):
            use()


def test_unwritable_folder_is_refused(scratch: Scratch) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    scratch.folder().chmod(0o500)
    for use in (scratch.usage, scratch.folder):
        with pytest.raises(StageError, match="cannot be written"):
            use()


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (lambda path: path.symlink_to(path.parent), "is a link"),
        (lambda path: path.symlink_to(path.parent / "nowhere"), "is a link"),
        (lambda path: path.write_text("x"), "is not a folder"),
        (lambda path: (path.mkdir(), path.chmod(0o770)), r"is open to other users \(mode 0770\)"),
        (lambda path: (path.mkdir(), path.chmod(0o755)), r"is open to other users \(mode 0755\)"),
    ],
)
def test_planted_folders_and_links_are_refused(scratch: Scratch, plant: Callable[[Path], object], reason: str) -> None:
    path = Path(str(scratch.place)) / f"raypipe-{os.geteuid()}"
    path.parent.mkdir()
    plant(path)
    for use in (scratch.folder, scratch.usage, lambda: hold(scratch, "x")):
        with pytest.raises(StageError, match=rf"raypipe-\d+: {reason}.*; delete it, or choose another") as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(scratch: Scratch) -> None:
    os.chown(scratch.folder(), 12345, -1)
    with pytest.raises(StageError, match="belongs to user 12345, not to 0"):
        scratch.folder()


def test_set_is_fetched_once_and_missing_files_again(scratch: Scratch) -> None:
    fetched: list[str] = []

    def fetch(name: str, path: Path) -> None:
        fetched.append(name)
        time.sleep(0.05)
        path.write_bytes(bytes(500))

    with ThreadPoolExecutor(4) as pool:
        leases = list(pool.map(lambda _: scratch.hold("x", missing(1000), fetch), range(4)))
    assert fetched == ["a", "b"]
    (leases[0].folder / "b").unlink()
    scratch.hold("x", missing(1000), fetch)
    assert fetched == ["a", "b", "b"]


def test_failed_fetch_leaves_no_file(scratch: Scratch) -> None:
    def fetch(name: str, path: Path) -> None:
        path.write_bytes(b"half")
        if name == "b":
            raise StageError("gone")

    with pytest.raises(StageError, match="gone"):
        scratch.hold("x", missing(1000), fetch)
    assert sorted(path.name for path in (scratch.folder() / "x").iterdir()) == [".bytes", ".fill", ".lock", "a"]
    # The set is no longer in use.
    hold(scratch, "y", 3000)
    assert names(scratch) == ["y"]


@pytest.mark.parametrize("name", ["../out", "/tmp/out", ".lock", "a/b", ".."])
def test_file_name_outside_the_set_is_refused(scratch: Scratch, name: str) -> None:
    with pytest.raises(StageError, match="is not an allowed file name"):
        scratch.hold("x", lambda _: {name: 1}, lambda _, path: path.write_bytes(b"x") and None)
    assert not list(scratch.folder().rglob("out*"))


def test_least_recently_used_set_is_removed_first(scratch: Scratch) -> None:
    for place, name in enumerate("abc"):
        hold(scratch, name, at=100.0 + place).close()
    assert names(scratch) == ["a", "b", "c"]
    hold(scratch, "a").close()
    hold(scratch, "d").close()
    assert names(scratch) == ["a", "c", "d"]
    assert scratch.usage().n_bytes <= scratch.max_bytes
    hold(scratch, "e", 2000).close()
    assert "e" in names(scratch)
    assert scratch.usage().n_bytes <= scratch.max_bytes


def test_sets_in_use_stay_and_full_scratch_raises(scratch: Scratch) -> None:
    leases = {name: hold(scratch, name, at=100.0) for name in "ab"}
    hold(scratch, "c", at=200.0).close()
    hold(scratch, "d").close()
    assert names(scratch) == ["a", "b", "d"]
    assert scratch.has_room("e", missing(1000))
    assert not scratch.has_room("e", missing(2000))
    with pytest.raises(NoRoomError, match=r"no room for 0.0 GB more: storage.scratch_gb is 3.1e-06"):
        hold(scratch, "e", 2000)
    # Nothing is removed if there would still be no room.
    assert {"a", "b", "d"} <= set(names(scratch))
    leases.pop("a").close()
    assert scratch.has_room("e", missing(2000))
    hold(scratch, "e", 2000)
    assert names(scratch) == ["b", "e"]
    del leases["b"]
    assert scratch.has_room("f", missing(1000))


def test_full_disk_has_no_room(scratch: Scratch) -> None:
    large = Scratch(scratch.place, max_gb=1e12)
    assert not large.has_room("x", missing(10**18))
    assert large.has_room("x", missing(10))


def test_parallel_threads_never_lose_sets_in_use(scratch: Scratch) -> None:
    def work(number: int) -> int:
        kept = 0
        for turn in range(25):
            try:
                lease = hold(scratch, f"s{(number * 7 + turn) % 5}")
            except NoRoomError:
                continue
            kept += all((lease.folder / name).stat().st_size == 500 for name in FILES)
            lease.close()
        return kept

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, range(4)))
    assert sum(done) > 20
    assert scratch.usage().n_bytes <= scratch.max_bytes


def test_scratch_is_pickled_with_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(storage={"scratch": "here", "scratch_gb": 2})
    there = pickle.loads(pickle.dumps(config.open_storage()))
    monkeypatch.chdir("/")
    assert there.scratch == Scratch(str(tmp_path / "here"), 2.0)
    assert "scratch" not in str(config.result_options("storage"))
