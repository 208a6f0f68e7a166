"""The upper bound: one process with aiohttp and uvloop that fetches pictures and keeps nothing.

`python -m benchmarks.ingest.bare_client POSTS.parquet REQUESTS-AT-A-TIME`
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator

import aiohttp
import pyarrow.parquet as pq
import uvloop


async def fetch_all(urls: list[str], at_a_time: int) -> dict[str, int]:
    """Fetch all `urls`. Returns the numbers of pictures and bytes received."""
    done = {"pictures": 0, "bytes": 0}
    left: Iterator[str] = iter(urls)

    async def worker(session: aiohttp.ClientSession) -> None:
        for url in left:
            async with session.get(url, headers={"Accept-Encoding": "identity"}) as answer:
                answer.raise_for_status()
                done["bytes"] += len(await answer.read())
                done["pictures"] += 1

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        await asyncio.gather(*(worker(session) for _ in range(at_a_time)))
    return done


def main() -> None:
    """Fetch, and print the numbers as JSON."""
    urls = pq.read_table(sys.argv[1], columns=["image_url"])["image_url"].to_pylist()
    print(json.dumps(uvloop.run(fetch_all(urls, int(sys.argv[2])))))


if __name__ == "__main__":
    main()
