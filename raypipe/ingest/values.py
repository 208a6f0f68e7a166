"""Converts columns of an input to the types of `posts/`, with a reason for each bad value.

Each parser returns the values and an array of as many reasons. A reason is null if its value is good.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.errors import InputError

Parsed = tuple[pa.Array, pa.Array]

MISSING = ("", "na", "n/a", "nan", "null", "none")
"""What spreadsheets and data frames write for a missing value, in lower case."""

_TIMESTAMP = pa.timestamp("us", tz="UTC")
_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_INTEGER = r"^[+-]?[0-9]{1,18}$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_LARGEST_SECONDS, _LARGEST_MILLISECONDS = 1e11, 1e14


def whole_numbers(column: pa.ChunkedArray, name: str, largest: int = 2**63 - 1) -> Parsed:
    """Parse int64 values from 0 to `largest`. Text is read as a number, and whole floats are accepted.
    Reasons: ``NAME_missing``, ``_not_a_number``, ``_not_whole``, ``_negative``, ``_too_large``.
    """
    values = _as_one_array(column)
    if pa.types.is_integer(values.type) and not pa.types.is_uint64(values.type):
        integers = values.cast(pa.int64())
        nothing = pa.nulls(len(values), pa.float64())
        return _check_numbers(integers, nothing, pc.is_null(values), _all_false(values), name, largest)
    if pa.types.is_floating(values.type):
        floats = values.cast(pa.float64())
        missing = pc.is_null(_without_nan(floats))
        return _check_numbers(pa.nulls(len(values), pa.int64()), floats, missing, _all_false(values), name, largest)
    strings = _as_strings(values, name)
    missing = _is_missing(strings)
    is_integer = pc.fill_null(pc.match_substring_regex(strings, _INTEGER), False)
    is_number = pc.fill_null(pc.match_substring_regex(strings, _NUMBER), False)
    bare = pc.replace_substring_regex(strings, r"^\+", "")
    none = pa.scalar(None, pa.string())
    integers = pc.if_else(is_integer, bare, none).cast(pa.int64())
    floats = pc.if_else(pc.and_(is_number, pc.invert(is_integer)), bare, none).cast(pa.float64())
    return _check_numbers(integers, floats, missing, pc.invert(is_number), name, largest)


def _check_numbers(
    integers: pa.Array, floats: pa.Array, missing: pa.Array, not_number: pa.Array, name: str, largest: int
) -> Parsed:
    # Each number is in `integers` or in `floats`. A value that is no number is null in both.
    amount = pc.coalesce(integers.cast(pa.float64(), safe=False), floats)
    whole = pc.fill_null(pc.equal(amount, pc.floor(amount)), False)
    reason = pc.case_when(
        pc.make_struct(
            missing,
            pc.or_(not_number, pc.fill_null(pc.is_inf(amount), False)),
            pc.fill_null(pc.less(amount, 0), False),
            pc.invert(whole),
            pc.fill_null(pc.greater(amount, float(largest)), False),
            # float(largest) may be rounded up to 2**63, which int64 cannot hold.
            pc.fill_null(pc.greater_equal(floats, 2.0**63), False),
        ),
        *(f"{name}_{what}" for what in ("missing", "not_a_number", "negative", "not_whole", "too_large", "too_large")),
    )
    good = pc.is_null(reason)
    from_floats = pc.if_else(good, floats, pa.scalar(None, pa.float64())).cast(pa.int64(), safe=False)
    kept = pc.if_else(good, pc.coalesce(integers, from_floats), pa.scalar(None, pa.int64()))
    return kept, reason


def texts(column: pa.ChunkedArray, name: str) -> Parsed:
    """Parse strings, null if blank. Whole floats become text without a decimal point. No value is bad."""
    values = _as_one_array(column)
    if pa.types.is_floating(values.type):
        # Data frames store whole numbers as floats if some values are missing: 17.0 was 17.
        numbers = [
            None if v is None or v != v else str(int(v)) if v.is_integer() else str(v) for v in values.to_pylist()
        ]
        values = pa.array(numbers, pa.string())
    strings = _as_strings(values, name, trim=False)
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(strings), ""), True)
    return pc.if_else(blank, pa.scalar(None, pa.string()), strings), pa.nulls(len(strings), pa.string())


def times(column: pa.ChunkedArray, name: str) -> Parsed:
    """Parse timestamps to µs, UTC. Text is ISO 8601 or Unix time. Numbers are Unix time in seconds, milliseconds or
    microseconds, depending on their size. A time without a zone is taken as UTC. Reason: ``NAME_not_a_time``.
    """
    values = _as_one_array(column)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        unzoned = values.cast(pa.timestamp("us"), safe=False) if pa.types.is_date(values.type) else values
        if unzoned.type.tz is None:
            unzoned = pc.assume_timezone(unzoned.cast(pa.timestamp("us"), safe=False), "UTC")
        return unzoned.cast(_TIMESTAMP, safe=False), pa.nulls(len(values), pa.string())
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        given, found = ~np.isnan(numbers), _from_unix(numbers)
    else:
        strings = _as_strings(values, name)
        given = ~_is_missing(strings).to_numpy(zero_copy_only=False)
        text = strings.to_pandas()
        numbers = pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
        dates = pd.to_datetime(text.where(np.isnan(numbers)), utc=True, format="ISO8601", errors="coerce")
        micros = dates.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
        found = np.where(np.isnan(numbers), micros, _from_unix(numbers))
    bad = given & np.isnat(found)
    reason = pc.if_else(pa.array(bad), f"{name}_not_a_time", pa.scalar(None, pa.string()))
    return pc.assume_timezone(pa.array(found, pa.timestamp("us")), "UTC"), reason


def _from_unix(numbers: np.ndarray) -> np.ndarray:
    size = np.abs(numbers)
    factor = np.where(size < _LARGEST_SECONDS, 1e6, np.where(size < _LARGEST_MILLISECONDS, 1e3, 1.0))
    usable = np.isfinite(numbers) & (size * factor < 2.0**62)
    micros = np.where(usable, numbers * factor, 0.0).round().astype("int64").astype("datetime64[us]")
    return np.where(usable, micros, np.datetime64("NaT", "us"))


def booleans(column: pa.ChunkedArray, name: str) -> Parsed:
    """Parse true or false, also 1, 0, yes, no, y, n, t, f. Missing is false. Reason: ``NAME_not_true_or_false``."""
    values = _as_one_array(column)
    if pa.types.is_boolean(values.type):
        return pc.fill_null(values, False), pa.nulls(len(values), pa.string())
    strings = pc.utf8_lower(_as_strings(values, name))
    is_true = pc.is_in(strings, pa.array(_TRUE))
    known = pc.or_(pc.or_(is_true, pc.is_in(strings, pa.array(_FALSE))), _is_missing(strings))
    return is_true, pc.if_else(known, pa.scalar(None, pa.string()), f"{name}_not_true_or_false")


def count_hashtags(captions: pa.Array) -> pa.Array:
    """int32: hashtags per caption (# or ＃ before a letter, digit or underscore of any script); 0 if it is null."""
    return pc.fill_null(pc.count_substring_regex(captions, r"[#＃][\p{L}\p{N}_]"), 0).cast(pa.int32())


def _all_false(values: pa.Array) -> pa.Array:
    return pa.array(np.zeros(len(values), dtype=bool))


def _without_nan(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


def _is_missing(strings: pa.Array) -> pa.Array:
    return pc.or_(pc.is_null(strings), pc.is_in(pc.utf8_lower(strings), pa.array(MISSING)))


def _as_strings(values: pa.Array, name: str, trim: bool = True) -> pa.Array:
    try:
        strings = values.cast(pa.string())
    except pa.ArrowException as error:
        raise InputError(f"column for {name}: values of type {values.type} cannot be converted") from error
    return pc.utf8_trim_whitespace(strings) if trim else strings


def _as_one_array(column: pa.ChunkedArray) -> pa.Array:
    flat = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return flat.dictionary_decode() if pa.types.is_dictionary(flat.type) else flat
