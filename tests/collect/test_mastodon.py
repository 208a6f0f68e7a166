"""Statuses are read as rows, from a real server's answer and from malformed answers."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.collect.mastodon import MastodonStatus, plain_text, read_page
from raypipe.collect.snapshots import SNAPSHOTS, deleted_row
from raypipe.tables.schemas import POSTS

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def status(name: str = "1", **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "id": name,
        "created_at": "2025-07-17T19:07:48.000Z",
        "content": '<p>Me &amp; you <a href="x">#<span>selfie</span></a></p>',
        "account": {"id": "9", "followers_count": 656},
        "media_attachments": [
            {"id": "v", "type": "video", "url": "https://example.org/v.mp4"},
            {"id": "a", "type": "image", "url": "https://example.org/a.jpg"},
            {"id": "b", "type": "image", "url": "https://example.org/b.jpg"},
        ],
        "tags": [{"name": "selfie"}, {"name": "me"}],
        "favourites_count": 3,
        "replies_count": 1,
        "unknown": {"to": ["us"]},
    }
    return {**made, **changes}


def test_real_mastodon_answer_is_read(shared_data: Path) -> None:
    body = json.loads((shared_data / "mastodon" / "hashtag_timeline.json").read_text())["body"]
    page = read_page(body, NOW, set(), 40)
    pa.Table.from_pylist(page.rows, schema=SNAPSHOTS).validate(full=True)
    with_image = [item for item in body if any(media["type"] == "image" for media in item["media_attachments"])]
    assert [row["post_id"] for row in page.rows] == [item["id"] for item in with_image] != []
    assert page.seen == len(body)
    assert page.dropped == {"no_image": len(body) - len(with_image)}
    for row, item in zip(page.rows, with_image, strict=True):
        assert row["likes"] == item["favourites_count"]
        assert row["followers"] == item["account"]["followers_count"]
        assert row["comments"] == item["replies_count"]
        assert row["n_hashtags"] == len(item["tags"])
        assert row["created_at"].isoformat() == item["created_at"].replace(".000Z", "+00:00")


def test_first_picture_becomes_image_url() -> None:
    row = read_page([status()], NOW, set(), 1).rows[0]
    assert row == {
        "post_id": "1",
        "image_url": "https://example.org/a.jpg",
        "user_id": "9",
        "likes": 3,
        "followers": 656,
        "comments": 1,
        "caption": "Me & you #selfie",
        "n_hashtags": 2,
        "created_at": datetime(2025, 7, 17, 19, 7, 48, tzinfo=UTC),
        "collected_at": NOW,
    }


def test_skipped_statuses_are_counted_by_reason() -> None:
    known = {"old"}
    items = [
        status("old"),
        status("new"),
        status("new"),
        status("text", media_attachments=[]),
        status("film", media_attachments=[{"type": "video", "url": "https://example.org/v.mp4"}]),
        status("pending", media_attachments=[{"type": "image", "url": None}]),
        status("second"),
        "not a status",
        None,
        {"id": "x"},
        status("third"),
        status("negative", favourites_count=-1),
        status("nowhen", created_at="yesterday"),
    ]
    page = read_page(items, NOW, known, 2)
    assert [row["post_id"] for row in page.rows] == ["new", "second"]
    assert page.dropped == {"duplicate": 2, "no_image": 3, "malformed": 5, "enough": 1}
    assert page.seen == len(items) == len(page.rows) + sum(page.dropped.values())
    assert known == {"old", "new", "second"}


@given(st.data())
def test_any_json_value_in_a_status_is_handled(data: st.DataObject) -> None:
    item = copy.deepcopy(status())
    name = data.draw(st.sampled_from(sorted(item)))
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=5,
    )
    item[name] = data.draw(json_values)
    page = read_page([item], NOW, set(), 5)
    assert page.seen == 1 == len(page.rows) + sum(page.dropped.values())
    pa.Table.from_pylist(page.rows, schema=SNAPSHOTS).validate(full=True)


def test_revisit_updates_counts_and_keeps_image_url() -> None:
    first = read_page([status()], NOW, set(), 1).rows[0]
    later = datetime(2026, 1, 9, 3, 4, 5, tzinfo=UTC)
    again = MastodonStatus.model_validate(status(favourites_count=40, replies_count=7, media_attachments=[]))
    row = again.revisited_row(first, later)
    assert (row["likes"], row["comments"], row["deleted"]) == (40, 7, False)
    assert row["image_url"] == first["image_url"]
    assert (row["collected_at"], row["revisited_at"]) == (NOW, later)
    lost = deleted_row(first, later)
    assert (lost["likes"], lost["deleted"]) == (3, True)
    pa.Table.from_pylist([row, lost], schema=POSTS).validate(full=True)


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>one</p><p>two<br>three<br/>four</p>", "one\ntwo\nthree\nfour"),
        ("plain", "plain"),
        ("", ""),
        ("<p>1 &lt; 2 &#128512;</p>", "1 < 2 😀"),
        ('<p><a class="mention">@<span>you</span></a> hi</p>', "@you hi"),
        ("<p>unclosed <b>bold", "unclosed bold"),
    ],
)
def test_html_is_converted_to_text(html: str, text: str) -> None:
    assert plain_text(html) == text
