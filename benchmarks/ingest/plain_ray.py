"""Ray Data alone: reads posts, fetches in async `map_batches`, writes Parquet. No budget, guard, retries or resume.

`python -m benchmarks.ingest.plain_ray POSTS.parquet OUTPUT REQUESTS-AT-A-TIME`
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import aiohttp
import pyarrow as pa

_BATCH = 256


class Fetch:
    """An actor with one session for all its batches."""

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._session: aiohttp.ClientSession | None = None
        self._turn: asyncio.Semaphore | None = None

    async def __call__(self, batch: pa.Table) -> AsyncIterator[pa.Table]:
        """The batch with the added columns `status` and `image`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
            self._turn = asyncio.Semaphore(self._at_a_time)
        images = await asyncio.gather(*(self._get(url) for url in batch["image_url"].to_pylist()))
        batch = batch.append_column("status", pa.array(["ok" if image else "failed" for image in images]))
        yield batch.append_column("image", pa.array(images, pa.binary()))

    async def _get(self, url: str) -> bytes | None:
        assert self._session is not None
        assert self._turn is not None
        async with self._turn, self._session.get(url) as answer:
            return await answer.read() if answer.status == 200 else None


def main() -> None:
    """Fetch and write."""
    posts, output, at_a_time = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.environ.update(RAY_DATA_DISABLE_PROGRESS_BARS="1", RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")
    import ray
    from ray.data import ActorPoolStrategy

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    stream = ray.data.read_parquet(posts, columns=["post_id", "image_url"])
    fetched = stream.map_batches(
        Fetch,
        fn_constructor_args=(at_a_time,),
        compute=ActorPoolStrategy(size=1),
        num_cpus=1,
        batch_size=_BATCH,
        batch_format="pyarrow",
    )
    fetched.write_parquet(output, compression="NONE")
    ray.shutdown()


if __name__ == "__main__":
    main()
