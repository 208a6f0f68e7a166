"""Columns of any type are converted to those of posts/, value by value."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import InputError
from raypipe.ingest.values import booleans, count_hashtags, texts, times, whole_numbers

BIG = 2**63 - 1


def column(values: list[Any], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def numbers(values: list[Any], kind: pa.DataType | None = None) -> tuple[list[int | None], list[str | None]]:
    found, reasons = whole_numbers(column(values, kind), "likes")
    assert found.type == pa.int64()
    return found.to_pylist(), reasons.to_pylist()


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ("0", 0, None),
        ("12", 12, None),
        (" 12 ", 12, None),
        ("+5", 5, None),
        ("007", 7, None),
        ("12.0", 12, None),
        ("1e3", 1000, None),
        ("123456789012345678", 123456789012345678, None),
        ("-1", None, "likes_negative"),
        ("-0.5", None, "likes_negative"),
        ("1.5", None, "likes_not_whole"),
        ("1e-3", None, "likes_not_whole"),
        ("", None, "likes_missing"),
        ("  ", None, "likes_missing"),
        ("NaN", None, "likes_missing"),
        ("null", None, "likes_missing"),
        ("N/A", None, "likes_missing"),
        (None, None, "likes_missing"),
        ("1,234", None, "likes_not_a_number"),
        ("1.2k", None, "likes_not_a_number"),
        ("inf", None, "likes_not_a_number"),
        ("many", None, "likes_not_a_number"),
        ("0x10", None, "likes_not_a_number"),
        ("１２", None, "likes_not_a_number"),
        ("99999999999999999999", None, "likes_too_large"),
        ("1e999", None, "likes_not_a_number"),
    ],
)
def test_number_texts_are_parsed(text: str | None, value: int | None, reason: str | None) -> None:
    # Between a good and a bad value: each value is checked alone.
    assert numbers(["3", text, "x"], pa.string()) == ([3, value, None], [None, reason, "likes_not_a_number"])


@pytest.mark.parametrize(
    ("values", "kind", "found", "reasons"),
    [
        ([1, -1, None], pa.int32(), [1, None, None], [None, "likes_negative", "likes_missing"]),
        ([2**63, 5], pa.uint64(), [None, 5], ["likes_too_large", None]),
        ([BIG, 0], pa.int64(), [BIG, 0], [None, None]),
        (
            [2.0, 2.5, math.nan, None],
            pa.float64(),
            [2, None, None, None],
            [None, "likes_not_whole"] + ["likes_missing"] * 2,
        ),
        ([math.inf, -math.inf, 1e30], pa.float64(), [None] * 3, ["likes_not_a_number"] * 2 + ["likes_too_large"]),
        ([3.0], pa.float32(), [3], [None]),
        ([Decimal("4.00"), Decimal("4.50")], pa.decimal128(6, 2), [4, None], [None, "likes_not_whole"]),
        ([None, None], pa.null(), [None, None], ["likes_missing"] * 2),
        (["7", "x"], pa.large_string(), [7, None], [None, "likes_not_a_number"]),
        ([True], pa.bool_(), [None], ["likes_not_a_number"]),
    ],
)
def test_other_number_types_are_converted(
    values: list[Any], kind: pa.DataType, found: list[Any], reasons: list[Any]
) -> None:
    assert numbers(values, kind) == (found, reasons)


def test_non_number_type_raises_error() -> None:
    with pytest.raises(InputError, match=r"likes: values of type list<.*int64> cannot be converted"):
        numbers([[1]])


def test_largest_number_is_exact() -> None:
    found, reasons = whole_numbers(column(["2147483647", "2147483648"]), "n_hashtags", 2**31 - 1)
    assert found.to_pylist() == [2**31 - 1, None]
    assert reasons.to_pylist() == [None, "n_hashtags_too_large"]


@given(st.lists(st.integers(0, 10**18 - 1), max_size=20))
def test_integers_are_read_exactly_from_text_and_int64(values: list[int]) -> None:
    nothing = [None] * len(values)
    assert numbers([str(v) for v in values], pa.string()) == (values, nothing)
    assert numbers(list(values), pa.int64()) == (values, nothing)


@given(st.lists(st.one_of(st.none(), st.floats()), max_size=20))
def test_each_float_is_accepted_or_gets_reason(values: list[float | None]) -> None:
    found, reasons = numbers(values, pa.float64())
    for value, number, reason in zip(values, found, reasons, strict=True):
        assert (number is None) != (reason is None)
        if number is not None:
            assert number == value


@given(st.lists(st.one_of(st.none(), st.text(max_size=8)), max_size=20))
def test_each_text_is_number_or_gets_reason(values: list[str | None]) -> None:
    found, reasons = numbers(values, pa.string())
    assert all((number is None) != (reason is None) for number, reason in zip(found, reasons, strict=True))
    assert all(number is None or number >= 0 for number in found)


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        (["a", "", "  ", None, " b "], pa.string(), ["a", None, None, None, " b "]),
        ([1, None, 2**62], pa.int64(), ["1", None, str(2**62)]),
        ([17.0, math.nan, 2.5, None], pa.float64(), ["17", None, "2.5", None]),
        ([b"x"], pa.binary(), ["x"]),
        (["x", None], pa.dictionary(pa.int8(), pa.string()), ["x", None]),
    ],
)
def test_values_are_converted_to_text(values: list[Any], kind: pa.DataType, found: list[str | None]) -> None:
    assert texts(column(values, kind), "post_id")[0].to_pylist() == found


NOON = datetime(2016, 11, 8, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["2016-11-08T12:00:00Z"], pa.string()),
        (["2016-11-08 12:00:00"], pa.string()),
        (["2016-11-08T14:00:00+02:00"], pa.string()),
        (["1478606400"], pa.string()),
        (["1478606400.0"], pa.string()),
        ([1478606400], pa.int64()),
        ([1478606400.0], pa.float64()),
        ([1478606400000], pa.int64()),
        ([1478606400000000], pa.int64()),
        ([NOON.replace(tzinfo=None)], pa.timestamp("ns")),
        ([NOON.astimezone(timezone(timedelta(hours=5)))], pa.timestamp("s", tz="+05:00")),
    ],
)
def test_times_of_any_type_become_utc(values: list[Any], kind: pa.DataType) -> None:
    found, reasons = times(column(values, kind), "created_at")
    assert found.type == pa.timestamp("us", tz="UTC")
    assert found.to_pylist() == [NOON]
    assert reasons.to_pylist() == [None]


def test_dates_and_fractional_seconds_are_read() -> None:
    assert times(column([date(2016, 11, 8)]), "created_at")[0].to_pylist() == [datetime(2016, 11, 8, tzinfo=UTC)]
    found, _ = times(column(["2016-11-08T12:00:00.123456Z"]), "created_at")
    assert found.to_pylist() == [NOON.replace(microsecond=123456)]


def test_invalid_times_get_a_reason() -> None:
    found, reasons = times(column(["soon", "", None, "nan", "2016-13-40", "2016-11-08"]), "created_at")
    bad = "created_at_not_a_time"
    assert reasons.to_pylist() == [bad, None, None, None, bad, None]
    assert found.to_pylist()[:5] == [None] * 5
    found, reasons = times(column([None, math.nan, math.inf, 1e300]), "created_at")
    assert reasons.to_pylist() == [None, None, bad, bad]


@given(st.lists(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1)), max_size=10))
def test_iso_times_round_trip(values: list[datetime]) -> None:
    found, reasons = times(column([v.isoformat() for v in values], pa.string()), "created_at")
    assert found.to_pylist() == [v.replace(tzinfo=UTC) for v in values]
    assert reasons.null_count == len(values)


def test_booleans_are_read_from_many_spellings() -> None:
    words = ["true", "F", "1", "0.0", "Yes", "no", "", None, "maybe"]
    found, reasons = booleans(column(words), "deleted")
    assert found.to_pylist() == [True, False, True, False, True, False, False, False, False]
    assert reasons.to_pylist() == [None] * 8 + ["deleted_not_true_or_false"]
    assert booleans(column([True, None]), "deleted")[0].to_pylist() == [True, False]
    assert booleans(column([1, 0]), "deleted")[0].to_pylist() == [True, False]


@pytest.mark.parametrize(
    ("caption", "count"),
    [
        (None, 0),
        ("", 0),
        ("no tags", 0),
        ("#selfie", 1),
        ("#a#b #c", 3),
        ("＃自撮り #сэлфи #élan", 3),
        ("#2016 #_x", 2),
        ("# a ## #", 0),
        ("##double", 1),
        ("#a\n#b", 2),
        ("#सेल्फी", 1),
    ],
)
def test_hashtags_are_counted_in_captions(caption: str | None, count: int) -> None:
    assert count_hashtags(pa.array([caption], pa.string())).to_pylist() == [count]


@given(st.text(alphabet=st.sampled_from("#＃ab é1_ \n-ж漢!"), max_size=30))
def test_hashtag_count_agrees_with_label_scheme(caption: str) -> None:
    assert count_hashtags(pa.array([caption])).to_pylist() == [len(re.findall(r"[#＃](\w+)", caption))]
