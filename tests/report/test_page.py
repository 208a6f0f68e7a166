"""Formats of numbers on the page."""

from __future__ import annotations

import math

import pytest

from raypipe.report.page import _count, _duration, _number, _p_value, _size


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (None, 4, "–"),
        (math.nan, 4, "–"),
        (0.012345, 4, "0.0123"),
        (-1.5, 1, "−1.5"),
        (1234.5, 1, "1,234.5"),
        (2_345_678.9, 4, "2,345,679"),
    ],
)
def test_numbers_are_formatted(value: float | None, digits: int, text: str) -> None:
    assert _number(value, digits) == text


def test_counts_have_thousands_separators() -> None:
    assert _count(486_149) == "486,149"
    assert _count(None) == "–"


@pytest.mark.parametrize(("value", "text"), [(0.00001, "< 0.0001"), (0.0123, "0.0123"), (math.nan, "–")])
def test_p_values_are_formatted(value: float, text: str) -> None:
    assert _p_value(value) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(None, "–"), (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (22_000_000_000, "22.0 GB")]
)
def test_byte_sizes_are_formatted(n_bytes: int | None, text: str) -> None:
    assert _size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (3725, "1 h 02 min")]
)
def test_durations_are_formatted(seconds: float, text: str) -> None:
    assert _duration(seconds) == text
