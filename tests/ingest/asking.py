"""Fetching pictures in one call, and sockets that cannot reach another machine."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

from raypipe.config.data_options import IngestOptions
from raypipe.ingest.fetching.client import FetchResult
from raypipe.ingest.fetching.fetch import Fetcher


def fetch(options: IngestOptions, *urls: str, **client: Any) -> list[FetchResult]:
    async def work() -> list[FetchResult]:
        async with Fetcher(options, **client) as fetcher:
            return await fetcher.fetch_many([(f"p{i}", url) for i, url in enumerate(urls)])

    return asyncio.run(work())


def fetch_one(options: IngestOptions, url: str, **client: Any) -> FetchResult:
    return fetch(options, url, **client)[0]


class RecordingSocket:
    """Replaces a socket and records that one was made. It cannot connect."""

    made: list[dict[str, Any]]

    def __init__(self, **kind: Any) -> None:
        type(self).made.append(kind)


class LoopbackSocket(socket.socket):
    """A socket that connects only to loopback, even if the tested code is wrong. It records each address."""

    asked: list[str]

    def connect(self, address: Any) -> None:
        type(self).asked.append(address[0])
        if not ipaddress.ip_address(address[0]).is_loopback:
            raise AssertionError(f"{address[0]} was dialled")
        super().connect(address)
