"""The report stage: one self-contained page with the numbers of the tables, for any content of a root."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import InputError, StageError
from raypipe.report.pipeline import run
from raypipe.tables.schemas import labels_schema
from tests.report.root import TRUTH, Built, commit, make_world, write_images, write_posts, write_training

SECTIONS = ("funnel", "regression", "examples", "training", "study", "provenance")


class Page(HTMLParser):
    """Sections with their text, all addresses that a browser would fetch, table rows, and unclosed tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: dict[str, str] = {"head": ""}
        self.rows: dict[str, list[list[str]]] = {}
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.svgs = 0
        self.open: list[str] = []
        self._section, self._row, self._cell = "head", [], None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]
        self.svgs += tag == "svg"
        if tag == "section":
            self._section = given["id"] or ""
            self.text[self._section], self.rows[self._section] = "", []
        if tag == "tr":
            self._row = []
        if tag in ("td", "th"):
            self._cell = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self._row.append(" ".join((self._cell or "").split()))
            self._cell = None
        if tag == "tr":
            self.rows[self._section].append(self._row)

    def handle_data(self, data: str) -> None:
        self.text[self._section] += data
        if self._cell is not None:
            self._cell += data

    def row(self, section: str, first: str) -> list[str]:
        """The first table row of `section` whose first cell is `first`."""
        return next(row for row in self.rows[section] if row and row[0] == first)


def page_of(config: Config) -> Page:
    run(config)
    return Page((Path(config.root) / "report" / "index.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(shared: Built) -> Page:
    return page_of(shared.config)


def test_page_has_every_section_and_closes_every_tag(page: Page) -> None:
    assert tuple(page.rows) == SECTIONS
    assert page.open == []
    assert page.svgs == 5
    assert len(page.ids) == len(set(page.ids)), "an id stands twice"


def test_page_loads_no_external_resource(page: Page, shared: Built) -> None:
    assert {address.split(":")[0] for address in page.addresses if not address.startswith("#")} <= {"data"}
    html = (Path(shared.config.root) / "report" / "index.html").read_text()
    outside = set(re.findall(r"https?://[^\s\"'<)]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in html
    assert "prefers-color-scheme: dark" in html


def test_funnel_numbers_equal_tables(page: Page, shared: Built) -> None:
    ok = [state == "ok" for state in shared.status]
    one = int((shared.posts["n_faces"][ok] == 1).sum())
    for count in (len(shared.posts) + 5, int((~shared.posts["deleted"]).sum()), sum(ok), one):
        assert f"{count:,}" in page.text["funnel"]
    assert page.row("funnel", "labels")[1:] == ["not one face", f"{1200 - one:,}"]
    assert ["labels", "1,200", f"{one:,}", f"{1200 - one:,}"] in page.rows["funnel"]
    assert "486,149" in page.text["funnel"]
    assert "200,545" in page.text["funnel"]


def test_regression_numbers_equal_model_and_truth(page: Page, shared: Built) -> None:
    for place, (term, estimate) in enumerate(shared.model["params"].items()):
        row = page.row("regression", term)
        low, high = shared.model["conf_int"][term]
        assert row[1] == f"{estimate:.4f}"
        assert row[2] == f"{shared.model['bse'][term]:.4f}"
        assert row[5] == f"{low:.4f} to {high:.4f}"
        assert row[6] == f"{TRUTH[place]:.4f}"
        assert row[7] == ("yes" if low <= TRUTH[place] <= high else "no")
    assert f"R² {shared.model['rsquared']:.4f}" in page.text["regression"]


def test_training_numbers_equal_table_1_and_paper(page: Page, shared: Built) -> None:
    for line in shared.table1:
        row = page.row("training", line["configuration"])
        assert row[1] == f"{line['max_val_accuracy']:.4f}"
        assert row[4] == f"{line['test_accuracy']:.4f}"
    assert page.row("training", "C")[8:] == ["0.7104", "8", "0.6872"]
    assert "D gets" in page.text["training"]


def test_pictures_are_shown_with_scores_and_truth(page: Page, shared: Built) -> None:
    best = shared.labels.sort_values("score").iloc[-1]
    assert f"{best['score']:+.2f}" in page.text["examples"]
    assert sum(address.startswith("data:image/jpeg;base64,") for address in page.addresses) >= 36


def test_figures_and_tables_are_written_as_files(shared: Built) -> None:
    run(shared.config)
    folder = Path(shared.config.root) / "report"
    assert {path.stem for path in (folder / "figures").glob("*.svg")} == {
        "funnel", "regression", "residuals", "validation", "overfitting", "accuracy",
    }  # fmt: skip
    for path in (folder / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    with io.StringIO((folder / "tables" / "coefficients.csv").read_text()) as text:
        found = {row["term"]: float(row["estimate"]) for row in csv.DictReader(text)}
    assert found == pytest.approx(shared.model["params"])


def test_report_is_rebuilt_only_for_new_input(built: Built) -> None:
    first = run(built.config)
    assert run(built.config).run_id == first.run_id
    write_training(built.storage, "train/A", built.results[:4], built.table1[:1], built.predictions)
    second = run(built.config)
    assert second.run_id != first.run_id
    assert set(second.inputs) - set(first.inputs) == {"train/A"}


def test_other_options_are_refused_without_overwrite(built: Built) -> None:
    run(built.config)
    other = load_config(root=built.config.root, report={"examples": 2})
    with pytest.raises(StageError, match=r"report\.examples was 12, is 2"):
        run(other)


def test_missing_parts_name_the_needed_command(config: Config) -> None:
    posts, _ = make_world()
    write_posts(config.open_storage(), posts)
    page = page_of(config)
    assert "raypipe ingest" in page.text["funnel"]
    assert "raypipe label" in page.text["regression"]
    assert "raypipe label" in page.text["examples"]
    assert "raypipe sweep" in page.text["training"]
    assert "raypipe study" in page.text["study"]
    assert page.svgs == 0


def test_empty_root_raises_error_and_writes_nothing(config: Config) -> None:
    with pytest.raises(InputError, match="has no complete table"):
        run(config)
    assert not Path(config.root).exists()


SCHEMES = {
    "continuous": (pa.float64(), lambda i: float(i) / 7),
    "hashtags": (pa.list_(pa.string()), lambda i: ["sun", "sea"] if i % 2 else ["sun"]),
    "column": (pa.string(), lambda i: "ants" if i % 2 else "bees"),
    "quantiles": (pa.string(), lambda i: f"q{i % 4 + 1}"),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_without_a_regression_have_a_report(config: Config, scheme: str) -> None:
    posts, status = make_world()
    storage = config.open_storage()
    write_posts(storage, posts)
    write_images(storage, posts, status)
    kind, label = SCHEMES[scheme]
    rows = [
        {
            "post_id": post_id,
            "y": None,
            "fitted": None,
            "score": None,
            "label": label(i),
            "split": ("train", "val")[i % 2],
        }
        for i, post_id in enumerate(posts["post_id"][:200])
    ]
    model = json.dumps({"scheme": scheme, "formula": None, "thresholds": {}, "dropped": {}}).encode()
    commit(storage, "labels", pa.Table.from_pylist(rows, schema=labels_schema(kind)), files={"_model.json": model})
    page = page_of(config)
    assert "has no regression" in page.text["regression"]
    assert any(address.startswith("data:image/jpeg") for address in page.addresses)


def test_metadata_alone_has_a_report_without_pictures(config: Config, shared: Built) -> None:
    storage = config.open_storage()
    write_posts(storage, shared.posts)
    write_images(storage, shared.posts, shared.status, with_bytes=False)
    commit(storage, "labels", tables.read_table(shared.storage, "labels"))
    page = page_of(config)
    assert "only metadata of posts" in page.text["examples"]
    assert "Picture fetched" not in page.text["funnel"]


def test_a_root_on_s3_has_a_report_with_pictures(s3_endpoint: str, shared: Built) -> None:
    storage = {"endpoint": s3_endpoint, "region": "us-east-1"}
    config = load_config(root="s3://bucket/report-test", storage=storage)
    there = config.open_storage()
    write_images(there, shared.posts, shared.status)
    commit(there, "labels", tables.read_table(shared.storage, "labels"))
    run(config)
    page = Page(there.read("report/index.html").decode())
    assert sum(address.startswith("data:image/jpeg") for address in page.addresses) == 24


def test_user_text_is_escaped(built: Built) -> None:
    config = load_config(root=built.config.root, report={"title": "<script>alert(1)</script>"})
    html = run(config) and (Path(config.root) / "report" / "index.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
