"""The world's posts as a hashtag feed: the part of Mastodon's public API that `collect` uses.

The timeline shows posts as they were first seen, without likes. The address of one post shows it as at the revisit.
"""

from __future__ import annotations

import html
import re
import time
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from aiohttp import web

from raypipe import tables
from raypipe.storage import Storage

_MAX_PAGE = 40
_TAG = re.compile(r"#(\w+)")


class HashtagFeed:
    """Routes of the feed. The first request reads all posts into memory (about 200 bytes per post)."""

    def __init__(self, storage: Storage, rate_limit: int = 300, rate_window: float = 300.0) -> None:
        self._storage = storage
        self._limit = RateLimit(rate_limit, rate_window)
        self._by_tag: dict[str, list[int]] = {}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Register the feed's addresses."""
        router.add_get("/api/v1/timelines/tag/{tag}", self.timeline)
        router.add_get("/api/v1/statuses/{id}", self.status)

    @cached_property
    def _posts(self) -> pa.Table:
        return tables.read_table(self._storage, "posts").sort_by([("post_id", "descending")]).combine_chunks()

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self._posts["post_id"].to_pylist())}

    async def timeline(self, request: web.Request) -> web.Response:
        """Posts with a tag, newest first, older than `max_id` if given. A Link header leads to the next page."""
        headers = self._limit.count_request()
        try:
            limit = min(_MAX_PAGE, max(1, int(request.query.get("limit", "20"))))
        except ValueError:
            return web.json_response({"error": "limit is not a number"}, status=400, headers=headers)
        rows = self._tagged(request.match_info["tag"].lower())
        if before := request.query.get("max_id"):
            rows = [row for row in rows if self._posts["post_id"][row].as_py() < before]
        rows = rows[:limit]
        page = [self._as_status(row, str(request.url.origin()), fresh=True) for row in rows]
        if page:
            next_page = request.url.with_query({**request.query, "max_id": page[-1]["id"]})
            previous_page = request.url.with_query({"limit": limit, "min_id": page[0]["id"]})
            headers["Link"] = f'<{next_page}>; rel="next", <{previous_page}>; rel="prev"'
        return web.json_response(page, headers=headers)

    async def status(self, request: web.Request) -> web.Response:
        """One post as at the revisit, or 404 if it is deleted or unknown."""
        headers = self._limit.count_request()
        row = self._row_of.get(request.match_info["id"])
        if row is None or self._posts["deleted"][row].as_py():
            return web.json_response({"error": "Record not found"}, status=404, headers=headers)
        return web.json_response(self._as_status(row, str(request.url.origin()), fresh=False), headers=headers)

    def _tagged(self, tag: str) -> list[int]:
        if tag not in self._by_tag:
            pattern = rf"(?i)#{re.escape(tag)}(?:\W|$)"
            mask = pc.match_substring_regex(self._posts["caption"], pattern)
            self._by_tag[tag] = pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist()
        return self._by_tag[tag]

    def _as_status(self, row: int, origin: str, *, fresh: bool) -> dict[str, Any]:
        post = self._posts.slice(row, 1).to_pylist()[0]
        name, caption = post["post_id"], post["caption"] or ""
        picture = f"{origin}/p/{name}.jpg"
        return {
            "id": name,
            "created_at": _as_text(post["created_at"]),
            "in_reply_to_id": None,
            "sensitive": False,
            "spoiler_text": "",
            "visibility": "public",
            "language": "en",
            "uri": f"{origin}/statuses/{name}",
            "url": f"{origin}/@{post['user_id']}/{name}",
            "replies_count": 0 if fresh else post["comments"],
            "reblogs_count": 0,
            "favourites_count": 0 if fresh else post["likes"],
            "content": _as_html(caption, origin),
            "reblog": None,
            "account": {
                "id": post["user_id"],
                "username": post["user_id"],
                "acct": post["user_id"],
                "bot": False,
                "followers_count": post["followers"],
                "following_count": 0,
                "statuses_count": 1,
            },
            "media_attachments": [{"id": name, "type": "image", "url": picture, "preview_url": picture}],
            "mentions": [],
            "tags": [{"name": tag, "url": f"{origin}/tags/{tag}"} for tag in _TAG.findall(caption)],
            "emojis": [],
        }


class RateLimit:
    """At most `limit` requests per `window` seconds, with Mastodon's headers; then 429 without Retry-After."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, window
        self._opened, self._spent = -window, 0

    def count_request(self) -> dict[str, str]:
        """Count one request. Returns the headers of its answer. Raises aiohttp's 429 if the limit is exceeded."""
        now = time.time()
        if now >= self._opened + self._window:
            self._opened, self._spent = now, 0
        self._spent += 1
        headers = {
            "X-RateLimit-Limit": str(self._limit),
            "X-RateLimit-Remaining": str(max(0, self._limit - self._spent)),
            "X-RateLimit-Reset": _as_text(datetime.fromtimestamp(self._opened + self._window, UTC)),
        }
        if self._spent > self._limit:
            text = '{"error":"Too many requests"}'
            raise web.HTTPTooManyRequests(text=text, headers=headers, content_type="application/json")
        return headers


def _as_text(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _as_html(caption: str, origin: str) -> str:
    def link(match: re.Match[str]) -> str:
        tag = match[1]
        where = f"{origin}/tags/{tag}"
        return f'<a href="{where}" class="mention hashtag" rel="tag">#<span>{tag}</span></a>'

    return f"<p>{_TAG.sub(link, html.escape(caption, quote=False))}</p>"
