"""Matplotlib figures in the style of the page: light or dark like the reader's system, text in the system's font."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from raypipe.errors import printable

# Each role has a different colour, so that each colour in an SVG can be replaced with a CSS variable of the page.
COLOURS = {
    "paper": "#fbfaf7",
    "ink": "#1d1f23",
    "muted": "#62666e",
    "faint": "#b4b7bd",
    "rule": "#e3e1da",
    "blue": "#2166ac",
    "red": "#c0392b",
    "gold": "#b7791f",
    "a": "#7a8190",
    "b": "#2a9d8f",
    "c": "#2c6fbb",
    "d": "#c2571a",
}
_DARK = {
    "paper": "#15171a",
    "ink": "#e9e7e2",
    "muted": "#a0a4ab",
    "faint": "#5d626a",
    "rule": "#2f3338",
    "blue": "#6fb1f0",
    "red": "#f0857a",
    "gold": "#e0ac55",
    "a": "#a5acb9",
    "b": "#55c9ba",
    "c": "#77aff0",
    "d": "#f09a63",
}
_TAG = re.compile(r"<[^>]*>")
_SPARE = ("blue", "red", "gold", "muted")

_RC = {
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": COLOURS["faint"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.8,
    "text.color": COLOURS["ink"],
    # A $ in the name of a class must not begin a formula.
    "text.parse_math": False,
    "text.usetex": False,
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "figure.constrained_layout.use": True,
}


def configuration_colour(key: str) -> str:
    """The colour role of a configuration: its letter if it has the paper's form, otherwise one of the spare roles."""
    letter, _, form = key.partition(" ")
    return letter.lower() if letter in ("A", "B", "C", "D") and form != "modern" else _SPARE[_stable_index(key)]


def _stable_index(key: str) -> int:
    """A stable index into the spare roles. Python's own string hash changes from run to run."""
    return sum(key.encode()) % len(_SPARE)


@dataclass(frozen=True)
class Drawing:
    """One figure in three forms: `inline` SVG with the page's colours, a standalone `svg`, and a `png` on white."""

    name: str
    inline: str
    svg: bytes
    png: bytes


@contextlib.contextmanager
def styled_figure(width: float, height: float, **subplots: object) -> Iterator[tuple[Figure, Axes]]:
    """A figure of `width` × `height` inches and its axes, in the style of the page. It is closed at the end."""
    with mpl.rc_context({**_RC, "svg.hashsalt": "raypipe"}), warnings.catch_warnings():
        # matplotlib's font lacks some scripts. Browsers use other fonts for them, PNG files show an empty box.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure, axes = plt.subplots(figsize=(width, height), **subplots)
        try:
            yield figure, axes
        finally:
            plt.close(figure)


def make_drawing(figure: Figure, name: str, description: str) -> Drawing:
    """The drawing of a finished figure. `description` is the text for screen readers."""
    sink = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": f"raypipe-{name}"}):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    inline_svg = _clean_svg(sink.getvalue().decode(), name, description)
    light = "".join(f"--{role}:{value};" for role, value in COLOURS.items())
    dark = "".join(f"--{role}:{value};" for role, value in _DARK.items())
    style = (
        f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "text{font-family:system-ui,sans-serif!important}</style>"
    )
    standalone_svg = re.sub(r"(<svg[^>]*>)", rf"\1{style}", inline_svg, count=1)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=160, facecolor="white", metadata={"Software": None})
    return Drawing(
        name, inline_svg, f'<?xml version="1.0" encoding="utf-8"?>\n{standalone_svg}'.encode(), picture.getvalue()
    )


def _clean_svg(svg: str, name: str, description: str) -> str:
    """The SVG without prologue, metadata and size. Its ids begin with `name`, so that no two figures share one."""
    body = printable(svg[svg.index("<svg") :])
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg\b[^>]*?) width="[^"]*" height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    tags = "".join(_TAG.findall(body))
    used = set(re.findall(r"#([^\"')]+)[\"')]", tags)) & set(re.findall(r' id="([^"]*)"', tags))

    def rewritten(found: re.Match[str]) -> str:
        tag = re.sub(r' id="([^"]*)"', lambda own: f' id="{name}-{own[1]}"' if own[1] in used else "", found[0])
        tag = re.sub(r"#([^\"')]+)(?=[\"')])", lambda own: f"#{name}-{own[1]}" if own[1] in used else own[0], tag)
        for role, value in COLOURS.items():
            tag = tag.replace(value, f"var(--{role}, {value})")
        return tag

    # Only tags are rewritten. The text between them may be the name of a class, such as #2166ac.
    body = _TAG.sub(rewritten, body)
    safe = escape(printable(description))
    return body.replace("<svg ", f'<svg role="img" aria-label="{safe}" ', 1)
