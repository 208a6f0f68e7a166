"""File and folder names for any text are safe and unique."""

from __future__ import annotations

import re
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.export.safe_names import extension, folder_names, safe_key
from tests.export.conftest import FORMATS, picture

SAFE = re.compile(r"[a-z0-9~][a-z0-9_~-]{0,113}")
# Texts near the limits of the rules more often than random ones.
TEXT = st.text(max_size=12) | st.text("aA~2e_-./", max_size=6) | st.integers(70, 130).map("a".__mul__)


@given(text=TEXT)
@example("")
@example("\0")
@example("é" * 500)
def test_a_key_is_safe(text: str) -> None:
    assert SAFE.fullmatch(safe_key(text))


@given(one=TEXT, other=TEXT)
@example("a/b", "a~2fb")
@example("Ab", "aB")
@example("a" * 81, "a" * 80 + "b")
@example("", "~~e3b0c44298fc1c149afbf4c8996fb924")
def test_different_texts_get_different_keys(one: str, other: str) -> None:
    assert (safe_key(one) == safe_key(other)) == (one == other)


@given(text=TEXT)
def test_unshortened_key_decodes_to_its_text(text: str) -> None:
    key = safe_key(text)
    if "~~" not in key:
        assert unquote(key.replace("~", "%")) == text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("abc_1-2", "abc_1-2"),
        ("../../x", "~2e~2e~2f~2e~2e~2fx"),
        ("C3x", "~433x"),
        ("_a", "~5fa"),
        ("-a", "~2da"),
        ("~", "~7e"),
        ("é", "~c3~a9"),
        ("con", "~63on"),
        ("LPT1", "~4c~50~541"),
        ("console", "console"),
        ("a" * 80, "a" * 80),
        ("", "~~e3b0c44298fc1c149afbf4c8996fb924"),
    ],
)
def test_keys_of_usual_texts(text: str, key: str) -> None:
    assert safe_key(text) == key


@given(labels=st.sets(TEXT, max_size=8))
@example({"top", "Top"})
@example({"A", "a", "~41"})
@example({"K", "k", "\u212a"})
def test_folder_names_differ_even_ignoring_case(labels: set[str]) -> None:
    folders = folder_names(labels)
    assert set(folders) == labels
    assert len({folder.casefold() for folder in folders.values()}) == len(labels)
    assert all(re.fullmatch(r"[A-Za-z0-9~][A-Za-z0-9_~-]*", folder) for folder in folders.values())


def test_plain_labels_are_used_as_folder_names() -> None:
    labels = ["bottom", "Top", "q1", "..", "Nul"]
    assert folder_names(labels) == {"bottom": "bottom", "Top": "Top", "q1": "q1", "..": "~2e~2e", "Nul": "~4eul"}
    assert folder_names(["top", "Top"]) == {"top": "top", "Top": "~54op"}


@pytest.mark.parametrize("kind", FORMATS)
def test_extension_matches_format(kind: str) -> None:
    data = picture(np.random.default_rng(0), FORMATS[kind])
    assert extension(FORMATS[kind], b"") == kind
    assert extension(None, data) == kind


def test_rare_formats_get_safe_extensions() -> None:
    assert [extension(kind, b"") for kind in ("AVIF", "HEIC", "MPO", "TIFF", "../x", "É", "x" * 300, None)] == [
        "avif",
        "heic",
        "jpg",
        "tiff",
        "bin",
        "bin",
        "bin",
        "bin",
    ]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\x89PNG\r\n\x1a\n", "png"),
        (b"\xff\xd8\xff", "jpg"),
        (b"RIFF\x08\0\0\0WEBP", "webp"),
        (b"BM", "bmp"),
        (b"II*\0", "tiff"),
        (b"MM\0*", "tiff"),
        (b"", "bin"),
        (b"no picture", "bin"),
    ],
)
def test_format_is_found_without_decoding(data: bytes, found: str) -> None:
    # Pillow can open none of these.
    assert extension(None, data) == extension(None, memoryview(data)) == found
