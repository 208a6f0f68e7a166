"""Rows of text: no line is lost, whatever the other lines contain."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.tables.text_rows import MAX_JSON_DEPTH, csv_rows, json_object, replace_bad_bytes


def rows_of(text: str, longest: int = 1_000) -> list[Any]:
    return list(csv_rows(io.StringIO(text, newline=""), longest))


def test_stray_quote_affects_no_other_row() -> None:
    assert rows_of('a,1\nb,"2\nc,3\nd,4') == [["a", "1"], ('b,"2', "unclosed_quote"), ["c", "3"], ["d", "4"]]
    assert rows_of('a,"1\nb,"2\nc,"3\n') == [["a", "1\nb,2"], ('c,"3', "unclosed_quote")]
    assert rows_of('"') == [('"', "unclosed_quote")]


def test_too_long_field_affects_one_line() -> None:
    long = "x" * 20
    assert rows_of(f'a\n{long}\n"b\nc"\n"{long}"\nd', longest=10) == [
        ["a"],
        (long, "field_too_long"),
        ["b\nc"],
        (f'"{long}"', "field_too_long"),
        ["d"],
    ]
    # An open quote is detected because the field becomes too long.
    assert rows_of('"a\nbbbb\ncccc\ndddd\neeee', longest=10) == [
        ('"a', "field_too_long"),
        ["bbbb"],
        ["cccc"],
        ["dddd"],
        ["eeee"],
    ]


def test_field_limit_of_the_process_is_restored() -> None:
    before = csv.field_size_limit()
    rows_of("a,b\n", longest=1)
    next(csv_rows(io.StringIO("a\nb\n"), 1))
    assert csv.field_size_limit() == before


@given(st.lists(st.lists(st.text(alphabet='ab",\n\r é', max_size=5), min_size=1, max_size=3), max_size=5))
def test_rows_equal_those_of_csv_module(rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    assert rows_of(text.getvalue()) == list(csv.reader(io.StringIO(text.getvalue(), newline=""))) == rows


@given(st.text(alphabet='ab",\n', max_size=40), st.integers(1, 40))
def test_any_text_is_read_to_its_end(text: str, longest: int) -> None:
    def letters(row: list[str] | tuple[str, str]) -> str:
        return row[0] if isinstance(row, tuple) else "".join(row)

    found = "".join(map(letters, rows_of(text, longest)))
    assert [letter for letter in found if letter in "ab"] == [letter for letter in text if letter in "ab"]


@pytest.mark.parametrize(("depth", "is_row"), [(MAX_JSON_DEPTH - 1, True), (MAX_JSON_DEPTH, False)])
def test_too_deeply_nested_line_is_rejected(depth: int, is_row: bool) -> None:
    found = json_object('{"x":' + "[" * depth + "]" * depth + "}")
    assert isinstance(found, dict) == is_row
    assert is_row or found == "nested_too_deeply"
    assert isinstance(json_object('{"x":"' + "[" * 200 + '"}'), dict)


@given(st.binary(max_size=30))
def test_any_bytes_can_be_shown(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    assert replace_bad_bytes(text) == data.decode("utf-8", "replace")
    assert isinstance(json_object(text), (dict, str))
