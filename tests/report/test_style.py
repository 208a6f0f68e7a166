"""Drawings follow the page's colours, and carry nothing that a second drawing on the page would clash with."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from raypipe.report.style import COLOURS, Drawing, canvas, configuration_colour, render


def draw(name: str) -> Drawing:
    with canvas(3, 2) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=COLOURS["blue"])
        axes.set_xlabel("a < b & c")
        return render(figure, name, 'a "quoted" <description>')


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


def test_two_drawings_share_no_id() -> None:
    def ids(svg: str) -> set[str]:
        return {element.attrib["id"] for element in ET.fromstring(svg).iter() if "id" in element.attrib}

    one, two = ids(draw("one").inline), ids(draw("two").inline)
    assert one
    assert not one & two


def test_the_same_figure_is_the_same_file() -> None:
    assert draw("one") == draw("one")


@pytest.mark.parametrize(("key", "role"), [("A", "a"), ("D", "d"), ("B (train/again)", "b")])
def test_colours_follow_the_letter(key: str, role: str) -> None:
    assert configuration_colour(key) == role
