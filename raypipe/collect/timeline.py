"""Reads a hashtag's timeline page by page. Each page is staged at once, so that a killed run resumes after it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from raypipe.collect.client import ApiClient
from raypipe.collect.snapshots import SNAPSHOTS, TimelinePage
from raypipe.collect.sources import CollectSource
from raypipe.errors import InputError, StageError
from raypipe.progress import Progress
from raypipe.tables import TableRun, TableWriter
from raypipe.tables.record import RunRecord
from raypipe.tables.untrusted import read_parquet

_PAGE_SIZE = 40
# Key of the page's Parquet metadata: the next page, and the numbers of statuses seen and dropped.
_PAGE_KEY = b"raypipe_page"


async def collect(client: ApiClient, source: CollectSource, hashtag: str, run: TableRun, max_posts: int) -> RunRecord:
    """Fill `snapshots/` with the newest posts of a hashtag that have a picture, at most `max_posts`.

    Raises InputError if there is no such post. Raises StageError if the server does not answer with a timeline.
    """
    path = source.timeline_path(hashtag)
    known: set[str] = set()
    dropped: Counter[str] = Counter()
    seen = pages = 0
    max_id: str | None = None
    ended = False
    for rows, facts in _staged_pages(run.writer):
        known.update(rows["post_id"].to_pylist())
        dropped.update(facts["dropped"])
        seen, pages, max_id = seen + facts["seen"], pages + 1, facts["next_id"]
        ended = max_id is None
    with Progress("Collecting", max_posts, "posts") as progress:
        progress.advance(len(known))
        while not ended and len(known) < max_posts:
            query = {"limit": str(_PAGE_SIZE), "only_media": "true", **({"max_id": max_id} if max_id else {})}
            answer = await client.get(path, query)
            if not isinstance(answer.body, list):
                raise StageError(
                    f"{client.base}{path}: the answer is not a list of posts; "
                    "check that collect.instance is a Mastodon server"
                )
            if answer.next_id is not None and answer.next_id == max_id:
                raise StageError(f"{client.base}{path}: the page before {max_id} links to itself; the server is broken")
            page = source.read_page(answer.body, datetime.now(UTC), known, max_posts - len(known))
            # An empty page is the end of the timeline, even if its header names a next page.
            max_id = answer.next_id if answer.body else None
            ended = max_id is None
            _stage_page(run.writer, pages, page, max_id)
            seen, pages = seen + page.seen, pages + 1
            dropped.update(page.dropped)
            progress.advance(len(page.rows))
    if not known:
        run.writer.storage.delete_directory(run.writer.staging)
        raise InputError(
            f"{client.base}{path}: has no post with a picture, of {seen} posts; choose another collect.hashtag"
        )
    return run.commit(rows_in=seen, dropped=dict(dropped), facts={"pages": pages})


def _stage_page(writer: TableWriter, number: int, page: TimelinePage, next_id: str | None) -> None:
    facts = {"seen": page.seen, "dropped": page.dropped, "next_id": next_id}
    schema = SNAPSHOTS.with_metadata({_PAGE_KEY: json.dumps(facts).encode()})
    writer.write(f"{number:06d}", pa.Table.from_pylist(page.rows, schema=schema))


def _staged_pages(writer: TableWriter) -> Iterator[tuple[pa.Table, dict[str, Any]]]:
    storage = writer.storage
    for unit in sorted(writer.units_done()):
        path = storage.path(writer.staging, writer.part_name(unit))
        rows = read_parquet(path, storage.filesystem)
        yield rows, json.loads(rows.schema.metadata[_PAGE_KEY])
