"""A picture that crashes the child process that decodes it, like a bug in native code."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

SIZE = (61, 47)

# Every Python process with this folder on its path imports this module first.
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
    """A valid picture. Its size triggers the crash."""
    out = io.BytesIO()
    Image.new("RGB", SIZE, (200, 180, 160)).save(out, "PNG")
    return out.getvalue()


def write_site(folder: Path) -> Path:
    """Write the module that makes `deadly_picture` crash processes with `folder` on their path."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE)
    return folder


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A picture that crashes each child process that decodes it with SIGSEGV, but not this process."""
    # Child processes inherit this process's path.
    monkeypatch.syspath_prepend(str(write_site(tmp_path / "site")))
    return deadly_picture()
