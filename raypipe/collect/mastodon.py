"""Turns posts of Mastodon's public API into rows. Their format: docs.joinmastodon.org/entities/Status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, NonNegativeInt, ValidationError

from raypipe.collect.snapshots import TimelinePage


class Account(BaseModel):
    id: str
    followers_count: NonNegativeInt


class Attachment(BaseModel):
    type: str
    url: str | None = None


class MastodonTag(BaseModel):
    name: str


class MastodonStatus(BaseModel):
    """The part of a status that raypipe reads; servers send much more."""

    id: str
    created_at: AwareDatetime
    content: str
    account: Account
    media_attachments: list[Attachment]
    tags: list[MastodonTag]
    favourites_count: NonNegativeInt
    replies_count: NonNegativeInt

    @property
    def image_url(self) -> str | None:
        """URL of the first picture, or None if the post has none."""
        return next((item.url for item in self.media_attachments if item.type == "image" and item.url), None)

    def snapshot(self, collected_at: datetime) -> dict[str, Any]:
        """Return the post, first seen at `collected_at`, as a row of `snapshots/`."""
        return {
            "post_id": self.id,
            "image_url": self.image_url,
            "user_id": self.account.id,
            "created_at": self.created_at.astimezone(UTC),
            "collected_at": collected_at,
            **self._engagement(),
        }

    def revisited_row(self, snapshot: Mapping[str, Any], now: datetime) -> dict[str, Any]:
        """Return the post, seen again at `now`, as a row of `posts/`. The picture URL is the one first seen."""
        return {**snapshot, **self._engagement(), "revisited_at": now, "deleted": False}

    def _engagement(self) -> dict[str, Any]:
        return {
            "likes": self.favourites_count,
            "followers": self.account.followers_count,
            "comments": self.replies_count,
            "caption": plain_text(self.content),
            "n_hashtags": len(self.tags),
        }


def timeline_path(hashtag: str) -> str:
    """The path of a hashtag's timeline on a server."""
    return f"/api/v1/timelines/tag/{quote(hashtag, safe='')}"


def post_path(post_id: str) -> str:
    """The path of one post on a server."""
    return f"/api/v1/statuses/{quote(post_id, safe='')}"


def read_post(body: Any, snapshot: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a post that was requested again, as a row of `posts/`. Raises ValidationError if `body` is not a post."""
    return MastodonStatus.model_validate(body).revisited_row(snapshot, now)


def read_page(statuses: Sequence[Any], collected_at: datetime, known: set[str], max_posts: int) -> TimelinePage:
    """Return the statuses of one answer that have a picture, at most `max_posts`. Their ids are added to `known`.

    Reasons: `malformed` (not a status), `duplicate` (in `known`), `no_image`, `enough` (after `max_posts`).
    """
    page = TimelinePage(seen=len(statuses))
    for item in statuses:
        try:
            status = MastodonStatus.model_validate(item)
        except ValidationError:
            page.drop("malformed")
            continue
        if status.id in known:
            page.drop("duplicate")
        elif status.image_url is None:
            page.drop("no_image")
        elif len(page.rows) == max_posts:
            page.drop("enough")
        else:
            known.add(status.id)
            page.rows.append(status.snapshot(collected_at))
    return page


def plain_text(content: str) -> str:
    """Return the text of a status' HTML: one line per paragraph and line break, links as their visible text."""
    reader = _TextExtractor()
    reader.feed(content)
    reader.close()
    lines = ("".join(reader.parts)).split("\n")
    return "\n".join(line.strip() for line in lines).strip()


class _TextExtractor(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag == "br":
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        self.parts.append(data)
