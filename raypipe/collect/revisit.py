"""The revisit: requests each collected post again, a fixed number of days after it was first seen (section 3)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from raypipe.collect.client import ApiClient
from raypipe.collect.snapshots import deleted_row
from raypipe.collect.sources import CollectSource
from raypipe.errors import StageError
from raypipe.progress import Progress, print_line
from raypipe.tables import TableRun
from raypipe.tables.record import RunRecord
from raypipe.tables.schemas import POSTS
from raypipe.tables.untrusted import read_parquet

_POSTS_PER_UNIT = 40


async def revisit(
    client: ApiClient,
    source: CollectSource,
    run: TableRun,
    snapshots: pa.Table,
    days: float,
    *,
    wait: bool,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> RunRecord:
    """Fill `posts/`: each snapshot with the likes, comments and followers of its post `days` after `collected_at`.

    A post that answers 404 or 410 is `deleted` and keeps the numbers first seen. With `wait`, it waits until each
    post is due. Otherwise due posts are staged, and StageError says when the rest is due. The next run continues there.
    """
    started = time.monotonic()
    rows = snapshots.sort_by([("collected_at", "ascending"), ("post_id", "ascending")]).to_pylist()
    delay = timedelta(days=days)
    done = run.writer.units_done()
    with Progress("Revisiting", len(rows), "posts") as progress:
        for start in range(0, len(rows), _POSTS_PER_UNIT):
            unit, batch = f"{start // _POSTS_PER_UNIT:06d}", rows[start : start + _POSTS_PER_UNIT]
            if unit not in done:
                if not wait and batch[-1]["collected_at"] + delay > datetime.now(UTC):
                    raise _not_due(start, len(rows), batch, rows[-1], delay)
                found = [await _revisit_post(client, source, row, delay, sleep) for row in batch]
                run.writer.write(unit, pa.Table.from_pylist(found, schema=POSTS))
            progress.advance(len(batch))
    facts = {"deleted": _count_deleted(run)}
    return run.commit(rows_in=len(rows), seconds={"revisit": time.monotonic() - started}, facts=facts)


async def _revisit_post(
    client: ApiClient,
    source: CollectSource,
    snapshot: dict[str, Any],
    delay: timedelta,
    sleep: Callable[[float], Awaitable[None]],
) -> dict[str, Any]:
    due: datetime = snapshot["collected_at"] + delay
    left = (due - datetime.now(UTC)).total_seconds()
    if left > 0:
        if left > 60:
            print_line(f"  waiting until {_as_text(due)} for the next post")
        await sleep(left)
    path = source.post_path(snapshot["post_id"])
    answer = await client.get(path)
    now = datetime.now(UTC)
    if answer.body is None:
        return deleted_row(snapshot, now)
    try:
        return source.read_post(answer.body, snapshot, now)
    except ValidationError as error:
        wrong = ".".join(map(str, error.errors()[0]["loc"]))
        raise StageError(f"{path}: the answer is not a post ({wrong}: {error.errors()[0]['msg']})") from error


def _not_due(done: int, total: int, batch: list[dict[str, Any]], last: dict[str, Any], delay: timedelta) -> StageError:
    first, end = batch[-1]["collected_at"] + delay, last["collected_at"] + delay
    return StageError(
        f"{done} of {total} posts revisited, the next are due at {_as_text(first)}, the last at {_as_text(end)}; "
        "run the same command then, or with --collect.wait true"
    )


def _as_text(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _count_deleted(run: TableRun) -> int:
    storage, writer = run.writer.storage, run.writer
    paths = [storage.path(writer.staging, writer.part_name(unit)) for unit in writer.units_done()]
    tables = [read_parquet(path, storage.filesystem, ["deleted"]) for path in paths]
    return sum(int(pc.sum(table["deleted"]).as_py() or 0) for table in tables)
