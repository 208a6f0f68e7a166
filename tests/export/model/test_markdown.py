"""Text of any kind keeps to its line and its cell."""

from __future__ import annotations

from markdown_it import MarkdownIt

from raypipe.export.model.markdown import code, listed, table


def cells(text: str) -> list[list[str]]:
    """The cells of a table as a reader of Markdown sees them."""
    found: list[list[str]] = []
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(text):
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline":
            found[-1].append("".join(part.content for part in token.children or []))
    return found


def test_labels_of_any_kind_stay_in_their_cell() -> None:
    awkward = ["a|b", "`x`", "two\nlines", "<b>", "``", "_top_"]
    rows = [(code(name), 1234567) for name in awkward]
    assert cells(table(["label", "n"], rows)) == [
        ["label", "n"],
        *([name.replace("\n", " "), "1,234,567"] for name in awkward),
    ]


def test_of_many_names_the_first_are_shown() -> None:
    assert listed(["a", "b"]) == "`a`, `b`"
    assert listed([str(i) for i in range(1200)], most=2) == "`0`, `1` and 1,198 more"
