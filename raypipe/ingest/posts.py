"""Reads a posts file into `posts/` and `posts_rejected/`: maps names, checks values, separates bad rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config
from raypipe.config.data_options import ColumnOptions
from raypipe.errors import InputError
from raypipe.ingest.values import Parsed, booleans, count_hashtags, texts, times, whole_numbers
from raypipe.progress import print_line
from raypipe.storage import Storage
from raypipe.tables.input_files import InputFiles, InputRows, open_input_files, text_column
from raypipe.tables.record import RunRecord, differences
from raypipe.tables.schemas import POSTS

_ROWS_A_FILE = 100_000
_SCHEMES_WITHOUT_LIKES = ("column", "hashtags")
_NEEDED = ("post_id", "image_url", "likes", "followers")

_PARSERS: dict[str, Callable[[pa.ChunkedArray, str], Parsed]] = {
    "post_id": texts,
    "image_url": texts,
    "user_id": texts,
    "likes": whole_numbers,
    "followers": whole_numbers,
    "comments": whole_numbers,
    "caption": texts,
    "n_hashtags": partial(whole_numbers, largest=2**31 - 1),
    "created_at": times,
    "collected_at": times,
    "revisited_at": times,
    "deleted": booleans,
}


@dataclass(frozen=True)
class CheckedPosts:
    """A checked posts file: rows for `posts/`, and the rejected rows as text with their `reason`.

    `missing_columns` names the needed columns that the file does not have. `notes` are lines for the user.
    """

    posts: pa.Table
    rejected: pa.Table
    reasons: Counter[str]
    missing_columns: list[str]
    notes: list[str]

    @property
    def n_rows(self) -> int:
        """Number of rows in the file."""
        return len(self.posts) + len(self.rejected)


def ingest_posts(config: Config) -> RunRecord:
    """Read the file of `config.posts` into `posts/` and `posts_rejected/`. Returns the record of `posts/`.

    Raises InputError if the file cannot be read, lacks a needed column or has no good row; then nothing is written.
    Raises StageError if the tables exist and were made from another file.
    """
    storage = config.open_storage()
    started = time.monotonic()
    source = open_input_files(str(config.posts), storage)
    optional = optional_columns(config)
    options = config.result_options("limit", "columns")
    inputs = {"posts": source.fingerprint()}
    complete = _complete(storage, options, inputs)
    if complete and not config.overwrite and set(complete.facts["lacks"]) <= set(optional):
        return complete
    checked = read_posts(source, config.columns, optional, config.limit)

    def begin(table: str) -> tables.TableRun:
        return tables.begin(storage, table, command="ingest", config=options, inputs=inputs, overwrite=config.overwrite)

    with begin("posts") as posts, begin("posts_rejected") as rejected:
        seconds = {"read": time.monotonic() - started}
        if not rejected.record:
            _write(rejected.writer, checked.rejected)
            rejected.commit(
                rows_in=len(checked.rejected),
                seconds=seconds,
                facts={"reasons": dict(checked.reasons), "of": checked.n_rows},
            )
        if not posts.record:
            _write(posts.writer, checked.posts)
            deleted = pc.sum(checked.posts["deleted"]).as_py()
            facts: dict[str, Any] = {"source": source.uri, "deleted": deleted, "lacks": checked.missing_columns}
            posts.commit(rows_in=checked.n_rows, dropped=checked.reasons, seconds=seconds, facts=facts)
    _say_result(checked, storage)
    assert posts.record is not None
    return posts.record


def _complete(storage: Storage, options: dict[str, Any], inputs: dict[str, str]) -> RunRecord | None:
    """Return the record of `posts/` if it and `posts_rejected/` were made with these options and inputs, else None."""
    posts, rejected = (tables.find_record(storage, table) for table in ("posts", "posts_rejected"))
    if posts and rejected and not any(differences(record, options, inputs) for record in (posts, rejected)):
        return posts
    return None


def optional_columns(config: Config) -> list[str]:
    """Return the needed columns that a file may lack with these options."""
    lacking = [] if config.ingest.fetch else ["image_url"]
    return lacking + (["likes", "followers"] if config.label.scheme in _SCHEMES_WITHOUT_LIKES else [])


def read_posts(
    source: InputFiles, columns: ColumnOptions, optional: list[str], limit: int | None = None
) -> CheckedPosts:
    """Read and check a posts file. Raises InputError if it cannot be used."""
    return check_posts(source.read(set(columns.model_dump().values()), limit), columns, optional, source.uri)


def check_posts(raw: InputRows, columns: ColumnOptions, optional: list[str], where: str) -> CheckedPosts:
    """Check rows. A bad row gets the first reason that applies. Of good rows with one `post_id`, the first is kept.

    A post that was deleted at the revisit may lack its URL and numbers, because they are no longer needed.
    """
    n = len(raw.table)
    if n == 0:
        raise InputError(f"{where}: no row can be used: {_reasons_text(Counter(reason for _, reason in raw.lines))}")
    found = _found_columns(raw.table, columns, optional, where)
    parsed = {name: _PARSERS[name](raw.table[column], name) for name, column in found.items()}
    values = {name: value for name, (value, _) in parsed.items()}
    deleted = values.get("deleted", pa.repeat(False, n))
    reasons = [_missing_reason(values["post_id"], "missing_post_id", pa.repeat(False, n))]
    if "image_url" in found:
        reasons.append(_missing_reason(values["image_url"], "missing_image_url", deleted))
    reasons += [_drop_allowed_reasons(reason, name, deleted, found) for name, (_, reason) in parsed.items()]
    notes = _fill(values, found, n)
    reason = pc.coalesce(*reasons)
    reason = pc.coalesce(reason, _duplicates(values["post_id"], pc.is_null(reason)))
    good = pc.is_null(reason)
    extras = _extra_columns(raw.table, found)
    rejected = _rejected(raw, pc.invert(good), reason)
    counts = Counter(rejected["reason"].to_pylist())
    if len(rejected) == n + len(raw.lines):
        raise InputError(f"{where}: no row can be used: {_reasons_text(counts)}")
    schema = pa.schema([*POSTS, *(pa.field(name, column.type) for name, column in extras.items())])
    # Filtered before the schema is applied, because bad rows have nulls in columns that must have none.
    kept = [column.filter(good) for column in [*(values[field.name] for field in POSTS), *extras.values()]]
    missing_columns = [name for name in _NEEDED if name not in found]
    return CheckedPosts(pa.table(kept, schema=schema), rejected, counts, missing_columns, notes)


def _found_columns(table: pa.Table, columns: ColumnOptions, optional: list[str], where: str) -> dict[str, str]:
    """Return raypipe's name → the file's name of the columns found. Raises InputError if a needed one is missing."""
    has = f"(it has {', '.join(table.column_names) or 'no columns'})"
    found = {}
    for name, wanted in columns.model_dump().items():
        if wanted in table.column_names:
            found[name] = wanted
        elif wanted != name:
            raise InputError(f"{where}: has no column {wanted!r} {has}; set --columns.{name} to one of them")
        elif name in _NEEDED and name not in optional:
            raise InputError(f"{where}: has no column {name!r} {has}; set its name with --columns.{name} NAME")
    return found


def _missing_reason(values: pa.Array, reason: str, excused: pa.Array) -> pa.Array:
    return pc.if_else(pc.and_(pc.is_null(values), pc.invert(excused)), reason, pa.scalar(None, pa.string()))


def _drop_allowed_reasons(reason: pa.Array, name: str, deleted: pa.Array, found: dict[str, str]) -> pa.Array:
    """Return `reason`, without missing optional values and missing numbers of deleted posts, which are allowed."""
    missing = pc.fill_null(pc.equal(reason, f"{name}_missing"), False)
    needed = name in ("likes", "followers") or (name == "n_hashtags" and "caption" not in found)
    return pc.if_else(pc.and_(missing, deleted) if needed else missing, pa.scalar(None, pa.string()), reason)


def _fill(values: dict[str, pa.Array], found: dict[str, str], n: int) -> list[str]:
    """Fill all columns of `posts/` in `values`, in place. Returns notes for the user."""
    notes = []
    if "image_url" not in found:
        notes.append("the file has no image_url: no picture can be fetched for its posts")
    numbers = [name for name in ("likes", "followers") if name not in found]
    if numbers:
        notes.append(f"the file has no {' and no '.join(numbers)}: set to 0, because label.scheme does not use them")
    if "n_hashtags" not in found and "caption" not in found:
        notes.append("the file has neither n_hashtags nor caption: n_hashtags is 0 for every post")
    for field in POSTS:
        values.setdefault(field.name, pa.nulls(n, field.type))
    values["image_url"] = pc.fill_null(values["image_url"], "")
    values["n_hashtags"] = pc.coalesce(values["n_hashtags"].cast(pa.int32()), count_hashtags(values["caption"]))
    for name, nothing in (("likes", 0), ("followers", 0), ("deleted", False)):
        values[name] = pc.fill_null(values[name], nothing)
    return notes


def _duplicates(post_ids: pa.Array, good: pa.Array) -> pa.Array:
    ids = post_ids.to_pandas()
    kept = good.to_pandas().to_numpy(dtype=bool)
    twice = kept.copy()
    twice[kept] = ids[kept].duplicated(keep="first").to_numpy()
    return pc.if_else(pa.array(twice), "duplicate_post_id", pa.scalar(None, pa.string()))


def _extra_columns(table: pa.Table, found: dict[str, str]) -> dict[str, pa.ChunkedArray]:
    """Return the columns that raypipe does not know, unchanged, as `input_NAME` if raypipe has a column NAME."""
    own, used = set(POSTS.names), set(found.values())
    extras = {}
    for name in table.column_names:
        if name not in used:
            extras[f"input_{name}" if name in own else name] = table[name]
    return extras


def _rejected(raw: InputRows, bad: pa.Array, reason: pa.Array) -> pa.Table:
    """Return the bad rows as text under the file's names, and in column `raw` the lines that could not be parsed."""
    rows = raw.table.filter(bad)
    own = ("raw", "reason")
    names = [f"input_{name}" if name in own else name for name in rows.column_names]
    table = pa.table([text_column(column) for column in rows.columns], names=names)
    table = table.append_column("raw", pa.nulls(len(rows), pa.string()))
    table = table.append_column("reason", reason.filter(bad))
    lines = pa.table(
        {"raw": [line for line, _ in raw.lines], "reason": [why for _, why in raw.lines]},
        pa.schema([("raw", pa.string()), ("reason", pa.string())]),
    )
    return pa.concat_tables([table, lines], promote_options="default")


def _write(writer: tables.TableWriter, table: pa.Table) -> None:
    for number, start in enumerate(range(0, max(1, len(table)), _ROWS_A_FILE)):
        writer.write(f"{number:06d}", table.slice(start, _ROWS_A_FILE))


def _reasons_text(reasons: Counter[str]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())


def _say_result(checked: CheckedPosts, storage: Storage) -> None:
    text = f"Posts: {len(checked.posts):,} of {checked.n_rows:,} rows"
    if checked.reasons:
        text += f"; the others are in {storage.uri('posts_rejected')}: {_reasons_text(checked.reasons)}"
    print_line(text)
    for note in checked.notes:
        print_line(f"  Note: {note}")
