"""CSV files whose text no spreadsheet evaluates, and that are read back unchanged."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.tables.csv_file import from_csv, to_csv
from tests.hostile import TEXTS

FORMULA = re.compile(r"[\s\u00a0]*[=+\-@＝＋－＠]|[\t\r\n]")
CALCULATED = re.compile(r"[\s\u00a0]*[=+\-@＝＋－＠]")
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("=+-@'\t\r\n ,;\"a1", max_size=6)


def cells(data: bytes, delimiter: str = ",") -> list[list[str]]:
    """Read the cells as a program that does not know raypipe."""
    return list(csv.reader(io.StringIO(data.decode(), newline=""), delimiter=delimiter))


@pytest.mark.parametrize("text", TEXTS)
def test_no_cell_is_read_as_formula(text: str) -> None:
    header, row = cells(to_csv([text, "n"], [[text, 1]]))
    for cell in (header[0], row[0]):
        assert not FORMULA.match(cell) or cell.startswith("'")
        # Only apostrophes are added.
        assert cell.replace("'", "") == text.replace("'", "")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "  =1", "＝1", "\u3000=1", "-0.5", "'a"]
)
def test_formula_like_text_gets_an_apostrophe(text: str) -> None:
    assert cells(to_csv(["a", "b"], [[text, 0]]))[1] == [f"'{text}", "0"]


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a;=1", "a;'=1"),
        ('a; "=1', "a;' \"=1"),
        ("\t=1", "'\t'=1"),
        ("a\n@x", "a\n'@x"),
        ("a;'b", "a;''b"),
        ("a; b=1",) * 2,
    ],
)
def test_apostrophe_is_added_after_possible_delimiters(text: str, cell: str) -> None:
    assert cells(to_csv(["a"], [[text]]))[1] == [cell]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
@example([("a;=1+1", "b;=1+1"), ("x\t=1+1", "x\t =1+1"), ('a;"=1', 'a;"=1'), ("a\n=1", "a\r\n@x"), ("a;'", "a;''=1")])
def test_no_cell_is_read_as_formula_with_other_delimiters(delimiter: str, rows: list[tuple[str, str]]) -> None:
    data = to_csv(["a", "b;=1"], rows)
    assert not [cell for row in cells(data, delimiter) for cell in row if CALCULATED.match(cell)]


def test_only_special_text_is_quoted() -> None:
    assert to_csv(["a", "b"], [["x", 1], ['"', None], ["", -0.5], [True, np.int64(3)], [["=1"], np.float32(0.5)]]) == (
        b'a,b\nx,1\n"""",\n"",-0.5\nTrue,3\n"[\'=1\']",0.5\n'
    )


@pytest.mark.parametrize("number", [-0.5, -3, 1e-05, -1e-300, 0, 12.25])
def test_numbers_stay_numbers(number: float) -> None:
    ((cell,),) = cells(to_csv(["a"], [[number]]))[1:]
    assert cell == str(number)
    assert float(cell) == number


@given(st.lists(st.tuples(TEXT, TEXT, st.none() | st.integers() | st.floats(allow_nan=False)), max_size=4))
@example([("'=1", "=1", -0.5), ("''", "'", None), ("a\r\nb", "\r", 1), ("a;'=1", "a;''b\t'", 1)])
def test_csv_round_trip(rows: list[tuple[str, str, Any]]) -> None:
    found = from_csv(to_csv(["=a", "b", "c"], rows))
    expected = [{"=a": one, "b": other, "c": "" if n is None else str(n)} for one, other, n in rows]
    assert found == expected


def test_files_without_apostrophes_are_read_unchanged() -> None:
    assert from_csv(b"a,b\n-x,1\n\n'y,\n") == [{"a": "-x", "b": "1"}, {"a": "y", "b": ""}]
    assert from_csv(b"") == []


def test_row_of_one_empty_cell_is_kept() -> None:
    assert from_csv(to_csv(["a"], [[None], [""]])) == [{"a": ""}, {"a": ""}]


def test_half_surrogate_is_written_escaped() -> None:
    assert to_csv(["a"], [["\ud800"]]) == b'a\n"\\ud800"\n'
