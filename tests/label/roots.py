"""Roots for labelling: posts whose likes follow reach as in the paper, and their pictures, as complete tables."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.tables.schemas import IMAGES, POSTS

N = 3_000


def made_posts(n: int = N, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    followers = (10 ** rng.normal(2.5, 0.7, n)).astype(int)
    hashtags = rng.geometric(0.12, n) - 1
    likes = 10 ** (0.35 + 0.45 * np.log10(1 + followers) + 0.012 * hashtags + rng.normal(0, 0.4, n)) - 1
    seconds = rng.integers(0, 10**6, n)
    given = {
        "post_id": [f"p{i:05d}" for i in range(n)],
        "image_url": [f"http://127.0.0.1/{i}.jpg" for i in range(n)],
        "user_id": [f"u{i}" for i in rng.integers(0, n // 2, n)],
        "likes": np.maximum(0, likes.round()).astype(int),
        "followers": followers,
        "caption": [f"#selfie {'#sun' if tag else 'rain'}" for tag in rng.integers(0, 2, n)],
        "n_hashtags": pa.array(hashtags, pa.int32()),
        "created_at": pa.array(seconds * 10**6, pa.timestamp("us", "UTC")),
        "deleted": rng.random(n) < 0.117,
    }
    posts = pa.table({field.name: given.get(field.name, pa.nulls(n, field.type)) for field in POSTS}).cast(POSTS)
    extra = {
        "kind": rng.choice(["ant", "bee"], n),
        "fold": rng.choice(["train", "val"], n, p=[0.7, 0.3]),
        "one": ["same"] * n,
        "constant": np.full(n, 300),
        "text": [f"word {i}" for i in range(n)],
        "tags": [["sun"]] * n,
        "comments_left": rng.integers(0, 5, n),
    }
    return pa.table({**{name: posts[name] for name in posts.column_names}, **extra})


def made_images(posts: pa.Table, seed: int = 1) -> pa.Table:
    rng, n = np.random.default_rng(seed), len(posts)
    deleted = posts["deleted"].to_numpy(zero_copy_only=False)
    status = np.where(deleted, "deleted", np.where(rng.random(n) < 0.05, "timeout", "ok"))
    hashes = np.array([f"{i:064x}" for i in range(n)], dtype=object)
    hashes[1::50] = hashes[::50][: len(hashes[1::50])]
    given = {
        "post_id": posts["post_id"],
        "url": posts["image_url"],
        "status": status,
        "attempts": pa.array(np.ones(n), pa.int32()),
        "sha256": pa.array(hashes, pa.string(), mask=status != "ok"),
        "n_faces": pa.array(rng.choice([0, 1, 2], n, p=[0.45, 0.47, 0.08]), pa.int32(), mask=status != "ok"),
    }
    return pa.table({field.name: given.get(field.name, pa.nulls(n, field.type)) for field in IMAGES}).cast(IMAGES)


def put(config: Config, table: str, rows: pa.Table, parts: int = 3) -> None:
    with tables.begin(config.open_storage(), table, command="world", config={}, inputs={}) as staged:
        size = -(-max(len(rows), 1) // parts)
        for unit in range(parts):
            staged.writer.write(f"{unit:05d}", rows.slice(unit * size, size))
        staged.commit(rows_in=len(rows))


def labelled(config: Config, *, overwrite: bool = False, seed: int = 0, **options: Any) -> Config:
    return load_config(root=config.root, overwrite=overwrite, seed=seed, ray={"dashboard": False}, label=options)


def read(config: Config) -> pa.Table:
    return tables.read_table(config.open_storage(), "labels")


def model_of(config: Config) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(config.open_storage().read("labels/_model.json"))
    return values
