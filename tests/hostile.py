"""Texts and names that mean something in some other language: for the tests of every place that writes users' text."""

from __future__ import annotations

NAMES = (
    "", ".", "..", "../x", "a/b", "/abs", "a\\b", "..\\x", ".hidden", "-x", "_x", "a b", " a", "a\n", "a\nb", "a\0b",
    "é", "a:b", "~", "$HOME", "%2e%2e", "x" * 65, "\u2024\u2024", "a\u202eb", "*",
)  # fmt: skip
"""What no folder is to be called."""

LEADS_OUT = ("..", "../x", "a/../../x", "/etc/passwd", "..\\x", "a/..", "./../x")
"""Paths that a record must not name."""
