"""Asking a server for pictures, in one call."""

from __future__ import annotations

import asyncio
from typing import Any

from raypipe.ingest.client import FetchResult
from raypipe.ingest.fetch import Fetcher
from raypipe.sections.data import IngestOptions


def fetch(options: IngestOptions, *urls: str, **client: Any) -> list[FetchResult]:
    async def work() -> list[FetchResult]:
        async with Fetcher(options, **client) as fetcher:
            return await fetcher.fetch_many([(f"p{i}", url) for i, url in enumerate(urls)])

    return asyncio.run(work())


def fetch_one(options: IngestOptions, url: str, **client: Any) -> FetchResult:
    return fetch(options, url, **client)[0]
