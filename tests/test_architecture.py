"""The list of rooms in docs/architecture.md is complete, and imports follow its order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "raypipe"
MODULES = ("cli", "errors", "progress", "stages")
LONGEST = 350


def rooms() -> list[str]:
    """The rooms of the document, in its order."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    return re.findall(r"^\| `(\w+)` \|", text.split("## Words")[0], re.MULTILINE)


def room_of(file: Path) -> str:
    """The package or module directly below raypipe/ that a file belongs to."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(file: Path) -> Iterator[str]:
    """The rooms that a file imports, at the top or inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "raypipe":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raypipe."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("raypipe."))


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent != PACKAGE or file.stem in MODULES)


def test_every_room_is_listed() -> None:
    listed = rooms()
    assert len(set(listed)) == len(listed)
    assert set(listed) == {room_of(file) for file in FILES}


def test_no_unlisted_top_level_module() -> None:
    found = {file.stem for file in PACKAGE.glob("*.py")}
    assert found == {*MODULES, "__init__", "__main__"}


@pytest.mark.parametrize("room", rooms())
def test_imports_follow_order_of_rooms(room: str) -> None:
    order = rooms()
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {other}"
        for file in FILES
        if room_of(file) == room
        for other in imported(file)
        if other != room and order.index(other) >= order.index(room)
    ]
    assert wrong == []


def test_files_have_at_most_350_lines() -> None:
    long = {
        str(file.relative_to(REPOSITORY)): lines
        for folder in ("raypipe", "tests", "benchmarks", "jobs")
        for file in (REPOSITORY / folder).rglob("*.py")
        if (lines := len(file.read_text().splitlines())) > LONGEST
    }
    assert long == {}
