"""A root with hostile texts in every place: the page shows them and has the same structure as with harmless texts."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe.config import Config
from raypipe.errors import printable
from raypipe.report.pipeline import run
from raypipe.report.summary import summary_lines
from raypipe.study.pipeline import ANSWERS
from raypipe.tables.csv_file import from_csv
from raypipe.train.data.target import Target
from tests.hostile import TEXTS
from tests.report import test_heads as heads
from tests.report.root import FORMULA, Built, build_root, commit, write_labels
from tests.tables.test_csv_file import FORMULA as CALCULATED
from tests.training_root import change


class Structure(HTMLParser):
    """Elements and their attribute names outside of drawings, and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, ...]] = []
        self.text = ""
        self._drawing = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._drawing = self._drawing or tag == "svg"
        if not self._drawing:
            self.elements.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._drawing = self._drawing and tag != "svg"

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(config: Config) -> Structure:
    run(config)
    return Structure((Path(config.root) / "report" / "index.html").read_text(encoding="utf-8"))


def write_texts(built: Built, text: str) -> Config:
    """Write `text` in each place of the root that a user or another person's file can fill."""
    write_model(built, text)
    # Only JSON files can contain half a surrogate pair.
    text = text.replace(HALF, "tame")
    answer = {"participant": text, "post_id": text, "label": "top", "answer": "top", "seconds": 1.0, "position": 0}
    commit(
        built.storage, "study/one", pa.Table.from_pylist([answer], schema=ANSWERS), dropped={text: 3},
        facts={text[:60]: text[:60], "list": [text[:60]]}, inputs={text: text},
    )  # fmt: skip
    return change(built.config, report={"title": text}, overwrite=True)


def write_model(built: Built, text: str) -> None:
    model = json.loads(json.dumps(built.model))
    for name in ("params", "bse", "tvalues", "pvalues", "conf_int"):
        model[name][f"T.{text}"] = model[name][text] = model[name]["n_hashtags"]
    model["formula"], model["cov_type"] = f"{text} ~ {FORMULA.partition('~')[2]}", text
    write_labels(built.storage, built.labels, model, len(built.posts))


@pytest.fixture(scope="module")
def tame(tmp_path_factory: pytest.TempPathFactory) -> tuple[Built, list[tuple[str, ...]]]:
    """A root, and the page structure for harmless texts."""
    built = build_root(tmp_path_factory.mktemp("hostile") / "root")
    return built, page_of(write_texts(built, "tame")).elements


HALF = "\ud800"
# Special starts of texts are tested for each place separately.
WORST = "=1+1 " + " ".join(text for text in TEXTS if len(text) < 40 and text.strip() == text and "\n" not in text)


@pytest.mark.parametrize("text", [WORST, HALF])
def test_hostile_texts_do_not_change_page_structure(tame: tuple[Built, list[tuple[str, ...]]], text: str) -> None:
    built, elements = tame
    config = write_texts(built, text)
    page = page_of(config)
    assert page.elements == elements
    assert page.text.count("?" if text == HALF else printable(text)) >= 5
    folder = Path(config.root) / "report" / "tables"
    rows: dict[str, list[dict[str, Any]]] = {file.stem: from_csv(file.read_bytes()) for file in folder.glob("*.csv")}
    if text != HALF:
        assert rows["table2"][0]["participant"] == text
        assert {"table": "study/one", "reason": text, "rows": "3"} in rows["dropped"]
        assert rows["coefficients"][-1]["term"] == text
    for file in folder.glob("*.csv"):
        for line in csv.reader(io.StringIO(file.read_text(), newline="")):
            assert not any(CALCULATED.match(cell) and not _is_number(cell) for cell in line)
    lines = summary_lines(config)
    assert not set("".join(lines)) & set(f"\x1b\x00\x07\u202e{HALF}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", ["classes", "tags"])
def test_any_class_or_hashtag_name_is_shown(config: Config, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    names = ("$\\frac{1}{", "=[/]\x1b[31m", "<script>alert(1)</script>")
    monkeypatch.setitem(heads.TARGETS, kind, Target(kind, names))
    heads.write(config, kind, {"A": 0.0, "B": 2.0})
    page = page_of(config)
    assert not {"script", "img"} & {element[0] for element in page.elements}
    for name in names:
        assert printable(name) in page.text
    assert summary_lines(config)
    if kind == "tags":
        found = from_csv((Path(config.root) / "report" / "tables" / "tags.csv").read_bytes())
        assert {row["tag"] for row in found} == set(names)
