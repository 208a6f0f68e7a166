"""Turns posts of Mastodon's public API into rows. Their format: docs.joinmastodon.org/entities/Status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, NonNegativeInt, ValidationError

from raypipe.tables.schemas import POSTS

SNAPSHOTS = pa.schema([field for field in POSTS if field.name not in ("revisited_at", "deleted")])
"""Schema of `snapshots/`: posts as first seen. It has the columns of `posts/` except those of the revisit."""


class Account(BaseModel):
    id: str
    followers_count: NonNegativeInt


class Attachment(BaseModel):
    type: str
    url: str | None = None


class Tag(BaseModel):
    name: str


class Status(BaseModel):
    """The part of a status that raypipe reads; servers send much more."""

    id: str
    created_at: AwareDatetime
    content: str
    account: Account
    media_attachments: list[Attachment]
    tags: list[Tag]
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

    def revisited(self, snapshot: Mapping[str, Any], now: datetime) -> dict[str, Any]:
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


def gone(snapshot: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a post that its server no longer has as a row of `posts/`, with the likes and other values first seen."""
    return {**snapshot, "revisited_at": now, "deleted": True}


@dataclass
class Page:
    """One page of a timeline: rows of `snapshots/`, and the number of dropped statuses by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    seen: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count one dropped status."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def read_page(statuses: Sequence[Any], collected_at: datetime, known: set[str], most: int) -> Page:
    """Return the statuses of one answer that have a picture, at most `most`. Their ids are added to `known`.

    Reasons for dropping: `malformed` (not a status), `duplicate` (in `known`), `no_image` and `enough` (after `most`).
    """
    page = Page(seen=len(statuses))
    for item in statuses:
        try:
            status = Status.model_validate(item)
        except ValidationError:
            page.drop("malformed")
            continue
        if status.id in known:
            page.drop("duplicate")
        elif status.image_url is None:
            page.drop("no_image")
        elif len(page.rows) == most:
            page.drop("enough")
        else:
            known.add(status.id)
            page.rows.append(status.snapshot(collected_at))
    return page


def plain_text(content: str) -> str:
    """Return the text of a status' HTML: one line per paragraph and line break, links as their visible text."""
    reader = _Text()
    reader.feed(content)
    reader.close()
    lines = ("".join(reader.parts)).split("\n")
    return "\n".join(line.strip() for line in lines).strip()


class _Text(HTMLParser):
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
