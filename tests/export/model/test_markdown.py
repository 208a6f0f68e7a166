"""Any text stays in its line and its table cell."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from markdown_it import MarkdownIt

from raypipe.errors import printable
from raypipe.export.model.markdown import code, listed, table, text
from tests.hostile import TEXTS

READER = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])


class Shown(HTMLParser):
    """The elements, text and table cells of a rendered page."""

    def __init__(self, markdown: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.cells: list[list[str]] = []
        self.feed(READER.render(markdown))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells and self.cells[-1] and data.strip():
            self.cells[-1][-1] += data


def words(text: str) -> str:
    return " ".join(printable(text).split())


@pytest.mark.parametrize("as_text", [True, False])
def test_any_name_stays_in_its_table_cell(as_text: bool) -> None:
    rows = [(text(name) if as_text else code(name), 1234567) for name in TEXTS]
    shown = Shown(table(["label", "n"], rows))
    empty = "" if as_text else "(empty)"
    assert shown.cells == [["label", "n"], *([words(name) or empty, "1,234,567"] for name in TEXTS)]
    assert set(shown.tags) <= {"table", "thead", "tbody", "tr", "th", "td", "code"}


@pytest.mark.parametrize("name", TEXTS)
def test_escaped_text_is_never_markup(name: str) -> None:
    for before, tag in (("", "p"), ("# ", "h1"), ("- ", "li")):
        shown = Shown(f"{before}{text(name)}\n")
        assert shown.text.strip() == words(name)
        assert set(shown.tags) <= {"p", tag, "ul"}
        shown = Shown(f"{before}x {code(name)} y\n")
        assert shown.text.strip() == f"x {words(name) or '(empty)'} y"
        assert set(shown.tags) <= {"p", tag, "ul", "code"}
        assert ("code" in shown.tags) == bool(words(name))


def test_long_lists_show_first_names_only() -> None:
    assert listed(["a", "b"]) == "`a`, `b`"
    assert listed([str(i) for i in range(1200)], most=2) == "`0`, `1` and 1,198 more"
