"""Generated posts, and facts about their pictures, as complete tables of any size. Writes a million rows at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from raypipe import tables
from raypipe.storage import Storage
from raypipe.tables.schemas import IMAGES, POSTS

_CHUNK = 1_000_000
_SELFIE_DAY_US = 1_462_060_800_000_000


def write(root: Path, n: int, pictures: bool = False) -> None:
    """Write `posts/` under `root`, and with `pictures` also `images/`, unless they exist already.

    As in the paper, likes depend on followers and hashtags. Faces are as frequent as in the paper.
    """
    for name, rows in (("posts", _posts), ("images", _images))[: 1 + pictures]:
        with tables.begin(Storage(str(root)), name, command="benchmark", config={"n": n}, inputs={}) as run:
            if run.record:
                continue
            for unit, start in enumerate(range(0, n, _CHUNK)):
                run.writer.write(f"{unit:05d}", rows(start, min(start + _CHUNK, n)))
            run.commit(rows_in=n)


def _names(start: int, stop: int) -> pa.Array:
    return pa.array(np.char.add("p", np.char.zfill(np.arange(start, stop).astype("U9"), 9)))


def _images(start: int, stop: int) -> pa.Table:
    rng, n = np.random.default_rng([1, start]), stop - start
    ok = rng.random(n) < 0.98
    given = {
        "post_id": _names(start, stop),
        "url": pa.array(["https://example.org/picture.jpg"]).take(pa.array(np.zeros(n, np.int8))),
        "status": pa.array(np.where(ok, "ok", "gone")),
        "attempts": pa.array(np.ones(n), pa.int32()),
        # About one in a thousand pictures is the same as another one.
        "sha256": pa.array([f"{number:064x}" for number in rng.integers(0, 1000 * n, n)], pa.string(), mask=~ok),
        "n_faces": pa.array(rng.choice([0, 1, 2], n, p=[0.45, 0.47, 0.08]), pa.int32(), mask=~ok),
    }
    columns = [given.get(field.name, pa.nulls(n, field.type)) for field in IMAGES]
    return pa.table(columns, schema=IMAGES)


def _posts(start: int, stop: int) -> pa.Table:
    rng, n = np.random.default_rng(start), stop - start
    followers = (10 ** rng.normal(2.5, 0.7, n)).astype(np.int64)
    hashtags = (rng.geometric(0.12, n) - 1).astype(np.int32)
    likes = 10 ** (0.35 + 0.45 * np.log10(1 + followers) + 0.012 * hashtags + rng.normal(0, 0.4, n)) - 1
    given = {
        "post_id": _names(start, stop),
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
