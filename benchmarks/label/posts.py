"""Generated posts as a complete table of a root, any number of them, a million rows at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from raypipe import tables
from raypipe.schemas import POSTS
from raypipe.storage import Storage

_CHUNK = 1_000_000
_SELFIE_DAY_US = 1_462_060_800_000_000


def write(root: Path, n: int) -> None:
    """`posts/` under `root` unless it is there already: likes follow followers and hashtags as in the paper."""
    storage = Storage(str(root))
    with tables.begin(storage, "posts", command="benchmark", config={"n": n}, inputs={}) as run:
        if run.record:
            return
        for unit, start in enumerate(range(0, n, _CHUNK)):
            run.writer.write(f"{unit:05d}", _rows(start, min(start + _CHUNK, n)))
        run.commit(rows_in=n)


def _rows(start: int, stop: int) -> pa.Table:
    rng, n = np.random.default_rng(start), stop - start
    followers = (10 ** rng.normal(2.5, 0.7, n)).astype(np.int64)
    hashtags = (rng.geometric(0.12, n) - 1).astype(np.int32)
    likes = 10 ** (0.35 + 0.45 * np.log10(1 + followers) + 0.012 * hashtags + rng.normal(0, 0.4, n)) - 1
    numbers = np.char.zfill(np.arange(start, stop).astype("U9"), 9)
    given = {
        "post_id": pa.array(np.char.add("p", numbers)),
        "image_url": pa.array(["https://example.org/picture.jpg"]).take(pa.array(np.zeros(n, np.int8))),
        "user_id": pa.array(np.char.add("u", rng.integers(0, 10**8, n).astype("U9"))),
        "likes": pa.array(np.maximum(0, likes.round()).astype(np.int64)),
        "followers": pa.array(followers),
        "n_hashtags": pa.array(hashtags),
        "created_at": pa.array(_SELFIE_DAY_US + np.arange(start, stop) * 1_000, pa.timestamp("us", "UTC")),
        "deleted": pa.array(rng.random(n) < 0.117),
    }
    columns = [given.get(field.name, pa.nulls(n, field.type)) for field in POSTS]
    return pa.table(columns, schema=POSTS)
