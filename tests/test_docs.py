"""Each command, option, column and status is in the docs, and links and commands in the docs are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from docs.make_options import PAGE, page
from raypipe.collect.snapshots import SNAPSHOTS
from raypipe.config.load import option_names
from raypipe.stages import STAGES
from raypipe.tables.schemas import IMAGES, POSTS, STATUSES, TABLE1_COLUMNS, labels_schema, predictions_schema

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
TABLES = (REPOSITORY / "docs" / "tables.md").read_text()
README = (REPOSITORY / "README.md").read_text()
HEADS = ("binary", "classes", "tags", "score")


@pytest.mark.parametrize("stage", STAGES)
def test_each_command_has_a_help_text_and_is_in_the_readme(stage: str) -> None:
    assert STAGES[stage].help
    first_cells = re.findall(r"^\| (`[^|]*) \|", README, re.MULTILINE)
    assert any(stage in re.findall(r"\w+", cell) for cell in first_cells)


def test_options_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run: python -m docs.make_options"


@pytest.mark.parametrize("option", option_names())
def test_each_option_is_on_the_options_page(option: str) -> None:
    assert f"`--{option}" in PAGE.read_text()


def test_options_in_the_docs_exist() -> None:
    known = option_names()
    for path in PAGES:
        for name in re.findall(r"--([a-z]+\.[a-z_]+)", path.read_text()):
            assert name in known, (path.name, name)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("posts", POSTS.names),
        ("snapshots", SNAPSHOTS.names),
        ("images", IMAGES.names),
        ("labels", labels_schema(POSTS.field("user_id").type).names),
        ("predictions", [name for head in HEADS for name in predictions_schema(head).names]),
        ("table1.csv", list(TABLE1_COLUMNS)),
    ],
)
def test_each_column_is_in_the_docs(table: str, columns: list[str]) -> None:
    rows = [line for line in TABLES.partition("## Columns")[2].splitlines() if line.startswith(f"| `{table}")]
    described = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert not set(columns) - described - (set(POSTS.names) if table == "snapshots" else set())


@pytest.mark.parametrize("status", STATUSES)
def test_each_status_is_in_the_docs(status: str) -> None:
    assert re.search(rf"`{status}`", TABLES)


def test_links_lead_to_files() -> None:
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target and not target.startswith("mailto:"):
                assert (path.parent / target).exists(), (path.name, target)


def test_commands_in_the_docs_exist() -> None:
    for path in PAGES:
        for name in re.findall(r"(?:`|^)raypipe ([a-z]+)\b(?= -|`|$)", path.read_text(), re.MULTILINE):
            assert name in STAGES, (path.name, name)


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    citation = re.search(r"^version: (.*)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE)
    newest = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation is not None
    assert newest is not None
    assert project == citation[1] == newest[1]
