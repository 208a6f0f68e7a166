"""CSV files whose text no spreadsheet calculates, and that give back what went in."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raypipe.csvfile import from_csv, to_csv
from tests.hostile import TEXTS

FORMULA = re.compile(r"[\s\u00a0]*[=+\-@＝＋－＠]|[\t\r\n]")
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.text("=+-@'\t\r\n ,\"a1", max_size=5)


def cells(data: bytes) -> list[list[str]]:
    """As a program that knows nothing of raypipe reads them."""
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


@pytest.mark.parametrize("text", TEXTS)
def test_no_text_is_a_formula(text: str) -> None:
    header, row = cells(to_csv([text, "n"], [[text, 1]]))
    for cell in (header[0], row[0]):
        assert not FORMULA.match(cell) or cell.startswith("'")
        assert cell in (text, f"'{text}")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "  =1", "＝1", "-0.5", "'a"])
def test_an_apostrophe_says_that_it_is_text(text: str) -> None:
    assert cells(to_csv(["a", "b"], [[text, 0]]))[1] == [f"'{text}", "0"]


@pytest.mark.parametrize("number", [-0.5, -3, 1e-05, -1e-300, 0, 12.25])
def test_numbers_stay_numbers(number: float) -> None:
    ((cell,),) = cells(to_csv(["a"], [[number]]))[1:]
    assert cell == str(number)
    assert float(cell) == number


@given(st.lists(st.tuples(TEXT, TEXT, st.none() | st.integers() | st.floats(allow_nan=False)), max_size=4))
@example([("'=1", "=1", -0.5), ("''", "'", None), ("a\r\nb", "\r", 1)])
def test_what_is_written_is_read_back(rows: list[tuple[str, str, Any]]) -> None:
    found = from_csv(to_csv(["=a", "b", "c"], rows))
    expected = [{"=a": one, "b": other, "c": "" if n is None else str(n)} for one, other, n in rows]
    assert found == expected


def test_of_files_without_marks_nothing_is_lost() -> None:
    assert from_csv(b"a,b\n-x,1\n\n'y,\n") == [{"a": "-x", "b": "1"}, {"a": "y", "b": ""}]
    assert from_csv(b"") == []


def test_half_a_character_ends_nothing() -> None:
    assert to_csv(["a"], [["\ud800"]]) == b"a\n\\ud800\n"
