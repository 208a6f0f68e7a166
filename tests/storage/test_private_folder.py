"""Folders that other users could read or replace are refused. The usual places are accepted."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from raypipe.errors import StageError
from raypipe.storage.private_folder import check_ancestors, check_can_be_made, check_usable, make_private

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")


def opened(folder: Path, mode: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)
    return folder


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o775, 0o1777, 0o1757])
def test_a_folder_that_others_cannot_replace_is_usable(tmp_path: Path, mode: int) -> None:
    path = opened(tmp_path / "above", mode) / "new" / "own"
    assert check_can_be_made(path) == tmp_path / "above"
    assert list((tmp_path / "above").iterdir()) == []
    assert make_private(path) == path == make_private(path)
    check_usable(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_temporary_and_home_directories_are_trusted() -> None:
    check_ancestors(Path(tempfile.gettempdir()).absolute())
    home = Path.home()
    # With `sudo`, the home directory may belong to another user.
    if home.is_dir() and home.stat().st_uid == os.geteuid():
        check_ancestors(home)


def below(_: Path, folder: Path) -> Path:
    return folder / "own"


def deep_below(_: Path, folder: Path) -> Path:
    return opened(folder / "closed", 0o700) / "own"


def through_a_link(tmp_path: Path, folder: Path) -> Path:
    (tmp_path / "link").symlink_to(folder)
    return tmp_path / "link" / "own"


def through_a_relative_link(tmp_path: Path, folder: Path) -> Path:
    (opened(tmp_path / "closed", 0o700) / "link").symlink_to(f"../{folder.name}")
    return tmp_path / "closed" / "link" / "own"


def through_a_link_in_it(tmp_path: Path, folder: Path) -> Path:
    """The inner link can be replaced, but not the folder it leads to. The given path does not contain that link."""
    (folder / "inner").symlink_to(opened(tmp_path / "closed", 0o700))
    (tmp_path / "outer").symlink_to(folder / "inner")
    return tmp_path / "outer" / "own"


def back_from_it(_: Path, folder: Path) -> Path:
    return opened(folder / "closed", 0o700) / ".." / ".." / "own"


WAYS = [below, deep_below, through_a_link, through_a_relative_link, through_a_link_in_it, back_from_it]


@pytest.mark.parametrize("mode", [0o777, 0o757, 0o702])
@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_others_can_replace_is_refused(
    tmp_path: Path, way: Callable[[Path, Path], Path], mode: int
) -> None:
    folder = opened(tmp_path / "open", mode)
    path = way(tmp_path, folder)
    before = sorted(tmp_path.rglob("*"))
    for use in (make_private, check_can_be_made):
        with pytest.raises(PermissionError) as caught:
            use(path)
        assert caught.value.strerror == f"{folder} is writable by every user (mode {mode:04o}), so it is not safe"
    assert sorted(tmp_path.rglob("*")) == before
    # The same path, made before its parent became writable for others.
    folder.chmod(0o755)
    make_private(path)
    folder.chmod(mode)
    with pytest.raises(PermissionError):
        check_usable(path)


@ROOT_ONLY
@pytest.mark.parametrize("way", WAYS)
def test_a_folder_of_another_user_is_refused(tmp_path: Path, way: Callable[[Path, Path], Path]) -> None:
    folder = opened(tmp_path / "theirs", 0o755)
    path = way(tmp_path, folder)
    os.chown(folder, 12345, -1)
    with pytest.raises(PermissionError, match="theirs belongs to user 12345, neither to 0 nor to root"):
        make_private(path)


@ROOT_ONLY
def test_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    (opened(tmp_path / "sticky", 0o1777) / "link").symlink_to(opened(tmp_path / "ours", 0o700))
    assert make_private(tmp_path / "sticky" / "link" / "own")
    os.lchown(tmp_path / "sticky" / "link", 12345, -1)
    with pytest.raises(PermissionError, match="link belongs to user 12345"):
        check_usable(tmp_path / "sticky" / "link" / "own")


def test_created_parents_are_private_for_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private(tmp_path / "a" / "b" / "own")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    check_ancestors(tmp_path / "a" / "b" / "own")


def test_endless_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        check_ancestors(tmp_path / "a")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
def test_folder_below_proc_is_refused_without_creating_it() -> None:
    for use in (make_private, check_can_be_made):
        with pytest.raises(OSError, match="/proc"):
            use(Path("/proc/x/own"))


def test_planted_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").symlink_to(opened(tmp_path / "else", 0o700))
    for use in (make_private, check_usable):
        with pytest.raises(StageError, match="is a link"):
            use(tmp_path / "own")
