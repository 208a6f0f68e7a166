"""Text that is safe to show on a terminal."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.errors import printable
from tests.hostile import TEXTS


@given(st.text(st.characters()) | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
@example("\ud800")
@example("\ufffe")
def test_plain_text_is_valid_in_xml(text: str) -> None:
    shown = printable(text)
    assert ET.fromstring(f"<a>{escape(shown)}</a>".encode()).text == (shown or None)
    assert not set(shown) & {"\x1b", "\x9b", "\r", "\b", "\x07", "\u202e", "\u2028"}
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text", ["", "a\tb\nc", "é日本🔥", "e\u0301", "[bold]", "שלום", "می\u200cخواهم", "👩\u200d🔬", "❤\ufe0f"]
)
def test_printable_text_is_unchanged(text: str) -> None:
    assert printable(text) == text


DIRECTIONS = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
NO_WIDTH = [0x180E, 0x200B, *range(0x2060, 0x2065), *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFC)]


@pytest.mark.parametrize("code", [*DIRECTIONS, *NO_WIDTH])
def test_invisible_and_direction_characters_are_escaped(code: int) -> None:
    assert printable(f"a{chr(code)}b") == f"a\\u{code:04x}b"


def test_escapes_follow_python_notation() -> None:
    assert printable("\x1b[0m \x9b \u202e \ud800 \r") == r"\x1b[0m \x9b \u202e \ud800 \x0d"
    for text in TEXTS:
        assert printable(text).isprintable() or set("\n\t") & set(text)
