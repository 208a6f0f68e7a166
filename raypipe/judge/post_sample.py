"""Draws a sample of labelled posts that depends only on the seed and the post_ids."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa

from raypipe import tables
from raypipe.label.blocks import Block, divide_into_blocks
from raypipe.label.engines import Engine
from raypipe.label.ranking.string_hashes import hash_strings
from raypipe.storage import Storage

_LABELS = ["post_id", "y", "fitted", "score", "label", "split"]


def sample_posts(engine: Engine, storage: Storage, size: int, seed: int, columns: list[str]) -> pd.DataFrame:
    """About `size` eligible posts (all if there are fewer): the named columns of posts/ and those of labels/.

    A post is drawn if the hash of its post_id is small, so that the same posts are drawn from any files.
    """
    n = tables.get_record(storage, "labels").rows_out
    bound = np.uint64(min(2**64 - 1, int(2**64 * min(1.0, size / max(n, 1)))))

    def drawn(_: Block, rows: pa.Table) -> pa.Table:
        return rows.filter(pa.array(hash_strings(rows["post_id"], seed + 1) <= bound))

    def table(name: str, wanted: list[str]) -> pd.DataFrame:
        parts = engine.map(drawn, divide_into_blocks(storage, name), wanted, f"Reading {name}")
        frame: pd.DataFrame = pa.concat_tables(parts).to_pandas()
        return frame

    posts = table("posts", list(dict.fromkeys(["post_id", "user_id", *columns])))
    labels = table("labels", _LABELS)
    return labels.merge(posts, on="post_id", how="left").sort_values("post_id", ignore_index=True)
