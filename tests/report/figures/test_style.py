"""Drawings use the page's colours and do not clash with another drawing on the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from raypipe.errors import printable
from raypipe.report.figures.style import COLOURS, Drawing, configuration_colour, make_drawing, styled_figure
from tests.hostile import TEXTS

ELEMENTS = {"svg", "defs", "style", "g", "path", "use", "text", "rect", "clipPath"}


def draw(name: str) -> Drawing:
    with styled_figure(3, 2) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=COLOURS["blue"])
        axes.set_xlabel("a < b & c")
        return make_drawing(figure, name, 'a "quoted" <description>')


def test_inline_svg_uses_the_pages_variables() -> None:
    drawing = draw("one")
    assert f"var(--blue, {COLOURS['blue']})" in drawing.inline
    assert "<metadata" not in drawing.inline
    assert "<!DOCTYPE" not in drawing.inline


def test_both_svgs_are_well_formed_and_described() -> None:
    drawing = draw("one")
    root = ET.fromstring(drawing.inline)
    assert root.attrib["aria-label"] == 'a "quoted" <description>'
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    ET.fromstring(drawing.svg)
    assert b"prefers-color-scheme" in drawing.svg
    assert drawing.png.startswith(b"\x89PNG")


def test_drawings_share_no_element_id() -> None:
    def ids(svg: str) -> set[str]:
        return {element.attrib["id"] for element in ET.fromstring(svg).iter() if "id" in element.attrib}

    one, two = ids(draw("one").inline), ids(draw("two").inline)
    assert one
    assert not one & two


def test_figure_bytes_are_reproducible() -> None:
    assert draw("one") == draw("one")


@pytest.mark.parametrize(("key", "role"), [("A", "a"), ("D", "d"), ("B (train/again)", "b")])
def test_colours_follow_the_letter(key: str, role: str) -> None:
    assert configuration_colour(key) == role


@pytest.mark.parametrize("start", range(0, len(TEXTS), 15))
def test_names_are_drawn_literally(start: int) -> None:
    names = TEXTS[start : start + 15]
    with styled_figure(6, 4) as (figure, axes):
        axes.set_yticks(range(len(names)), names)
        axes.set_title(names[0])
        for name in names:
            axes.annotate(name, (0, 0))
        drawing = make_drawing(figure, "one", " ".join(names))
    for svg in (drawing.inline, drawing.svg.decode()):
        root = ET.fromstring(svg)
        words = [element.text for element in root.iter() if element.tag.endswith("}text")]
        for name in names:
            for line in filter(str.strip, printable(name).splitlines()):
                assert words.count(line) >= 2
        assert root.attrib["aria-label"] == re.sub(r"[\t\n]", " ", printable(" ".join(names)))
        # No text becomes an SVG element.
        assert {element.tag.partition("}")[2] for element in root.iter()} <= ELEMENTS
    assert drawing.png.startswith(b"\x89PNG")
