"""A picture that ends the child process that decodes it, as a bug in native code does."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

SIZE = (61, 47)

# Every Python process that starts with this on its path imports it first.
_SITE = f"""
import ctypes
from PIL import ImageFile

load = ImageFile.ImageFile.load

def deadly(self):
    if tuple(self.size) == {SIZE}:
        ctypes.string_at(0)
    return load(self)

ImageFile.ImageFile.load = deadly
"""


def deadly_picture() -> bytes:
    """A whole picture; only its size is fatal."""
    out = io.BytesIO()
    Image.new("RGB", SIZE, (200, 180, 160)).save(out, "PNG")
    return out.getvalue()


def write_site(folder: Path) -> Path:
    """The module that makes `deadly_picture` fatal for processes with `folder` on their path."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE)
    return folder


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A picture that ends each child process that decodes it with SIGSEGV; this process has no trouble with it."""
    # Children have this process's path.
    monkeypatch.syspath_prepend(str(write_site(tmp_path / "site")))
    return deadly_picture()
