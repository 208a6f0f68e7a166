"""The kinds of server from which posts can be collected. `collect.source` names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from raypipe.collect import mastodon
from raypipe.collect.snapshots import TimelinePage


class CollectSource(Protocol):
    """A kind of server, implemented by a module. `collect` requests the paths, the source reads the JSON answers."""

    def timeline_path(self, hashtag: str, /) -> str:
        """The path of a hashtag's timeline. Its pages are linked by `max_id` in the Link header."""

    def read_page(
        self, posts: Sequence[Any], collected_at: datetime, known: set[str], max_posts: int, /
    ) -> TimelinePage:
        """The usable posts of one page, at most `max_posts`. Their ids are added to `known`."""

    def post_path(self, post_id: str, /) -> str:
        """The path of one post, for its revisit."""

    def read_post(self, body: Any, snapshot: Mapping[str, Any], now: datetime, /) -> dict[str, Any]:
        """The revisited post as a row of `posts/`. Raises pydantic's ValidationError if `body` is not a post."""


SOURCES: Mapping[str, CollectSource] = {"mastodon": mastodon}
