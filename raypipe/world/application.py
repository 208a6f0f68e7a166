"""Answers of the local server: the world's pictures and its feed. Some answers are bad on purpose.

Pictures stay in the table's Parquet files. The server knows the file of each picture. It keeps the 64 files
that were used last (about 3 MB each) in memory.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
from aiohttp import web

from raypipe import tables
from raypipe.storage import Storage
from raypipe.tables.untrusted import read_parquet
from raypipe.world.behaviour import BEHAVIOURS, NORMAL, ON_DEMAND
from raypipe.world.hashtag_feed import HashtagFeed
from raypipe.world.picture_responses import PictureResponder

_FILES_IN_MEMORY = 64
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PictureFiles:
    """Bytes of `pictures/` by post. A file is read at the first request for it; the last 64 files stay in memory."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._file_of: dict[str, str] = {}
        self._open: OrderedDict[str, dict[str, bytes]] = OrderedDict()
        self._reading = asyncio.Lock()
        if tables.find_record(storage, "pictures") is not None:
            for path in tables.data_paths(storage, "pictures"):
                for name in self._read(path, ["post_id"])["post_id"].to_pylist():
                    self._file_of[name] = path

    def __len__(self) -> int:
        return len(self._file_of)

    async def get(self, post_id: str) -> bytes | None:
        """The picture of a post, or None if it has none."""
        path = self._file_of.get(post_id)
        if path is None:
            return None
        async with self._reading:
            if path not in self._open:
                rows = await asyncio.to_thread(self._read, path, ["post_id", "image"])
                self._open[path] = dict(zip(rows["post_id"].to_pylist(), rows["image"].to_pylist(), strict=True))
                while len(self._open) > _FILES_IN_MEMORY:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return self._open[path][post_id]

    def _read(self, path: str, columns: list[str]) -> pa.Table:
        return read_parquet(path, self._storage.filesystem, columns)


class RequestCounts:
    """Counts of requests and answers. `/stats` shows them."""

    def __init__(self) -> None:
        self.requests = 0
        self.in_flight = 0
        self.in_flight_most = 0
        self.statuses: Counter[int] = Counter()
        self.behaviours: Counter[str] = Counter()
        self.pictures: Counter[str] = Counter()

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON types. `pictures` counts different pictures; `asked_most` is the most requests for one."""
        return {
            "requests": self.requests,
            "in_flight_most": self.in_flight_most,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "behaviours": dict(self.behaviours),
            "pictures": len(self.pictures),
            "asked_most": max(self.pictures.values(), default=0),
        }

    @web.middleware
    async def middleware(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Count a request and its answer, except for `/stats` and `/health`."""
        if request.path in ("/stats", "/health"):
            return await handler(request)
        self.requests += 1
        self.in_flight += 1
        self.in_flight_most = max(self.in_flight_most, self.in_flight)
        try:
            answer = await handler(request)
        except web.HTTPException as error:
            self.statuses[error.status] += 1
            raise
        finally:
            self.in_flight -= 1
        self.statuses[answer.status] += 1
        return answer


class PictureRoutes:
    """`/p/ID.jpg` answers as `truth/` says, `/misbehave/KIND/ID.jpg` as KIND says, `/plain/ID.jpg` always correctly."""

    def __init__(self, storage: Storage, counts: RequestCounts) -> None:
        self._pictures = PictureFiles(storage)
        self._counts = counts
        self._responder = PictureResponder()
        self._kind_by_post: dict[str, str] = {}
        if tables.find_record(storage, "truth") is not None:
            truth = tables.read_table(storage, "truth", ["post_id", "behaviour"]).to_pydict()
            pairs = zip(truth["post_id"], truth["behaviour"], strict=True)
            self._kind_by_post = {name: kind for name, kind in pairs if kind not in (None, NORMAL)}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the pictures' addresses."""
        router.add_get("/p/{post_id}.jpg", self.get_as_in_truth)
        router.add_get("/plain/{post_id}.jpg", self.get_normal)
        router.add_get("/misbehave/{kind}/{post_id}.jpg", self.get_as_kind)

    async def get_as_in_truth(self, request: web.Request) -> web.StreamResponse:
        """The picture, answered as `truth/` says."""
        return await self._answer(request, self._kind_by_post.get(request.match_info["post_id"], NORMAL))

    async def get_normal(self, request: web.Request) -> web.StreamResponse:
        """The picture, answered correctly."""
        return await self._answer(request, NORMAL)

    async def get_as_kind(self, request: web.Request) -> web.StreamResponse:
        """The picture, answered as the address says; 400 for an unknown kind. `misbehave` describes the query."""
        kind = request.match_info["kind"]
        if kind not in BEHAVIOURS and kind not in ON_DEMAND:
            raise web.HTTPBadRequest(text=f"{kind}: unknown; kinds are {', '.join({**BEHAVIOURS, **ON_DEMAND})}\n")
        return await self._answer(request, kind)

    async def _answer(self, request: web.Request, kind: str) -> web.StreamResponse:
        name = request.match_info["post_id"]
        self._counts.pictures[name] += 1
        self._counts.behaviours[kind] += 1
        picture = await self._pictures.get(name)
        if picture is None:
            raise web.HTTPNotFound(text="picture not found\n")
        return await self._responder.answer(request, kind, name, picture)


def application(storage: Storage, *, rate_limit: int = 300, rate_window: float = 300.0) -> web.Application:
    """The server of a world: pictures, feed, `/stats` and `/health`. Raises StageError if there are no posts."""
    tables.get_record(storage, "posts")
    counts = RequestCounts()

    async def stats(_: web.Request) -> web.Response:
        return web.json_response(counts.as_dict())

    async def health(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application(middlewares=[counts.middleware])
    app.router.add_get("/stats", stats)
    app.router.add_get("/health", health)
    PictureRoutes(storage, counts).add_routes(app.router)
    HashtagFeed(storage, rate_limit, rate_window).add_routes(app.router)
    return app
