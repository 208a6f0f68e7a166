"""The ways in which the local server answers requests for pictures, and which pictures it answers in which way."""

from __future__ import annotations

import hashlib

NORMAL = "normal"

BEHAVIOURS = {
    "404": "gone",
    "410": "gone",
    "429": "ok",
    "500": "ok",
    "slow": "ok",
    "truncated": "truncated",
    "half": "truncated",
    "wrong_type": "not_an_image",
    "disguised": "not_an_image",
    "redirect": "ok",
    "redirect_loop": "redirects",
}
"""Kinds of answers, each with the status that a careful fetcher finally writes to `images/`.

`429` (with Retry-After) and `500` come once, then the picture. `slow` sends it in small pieces. `truncated` closes the
connection too early. `half` sends half of the file without a protocol error. `wrong_type` sends a web page, `disguised`
a web page declared as JPEG. `redirect` leads to the picture, `redirect_loop` to itself.
"""

ON_DEMAND = {"403": "forbidden", "reset": "connection"}
"""Further kinds that an address can name. `behaviour_of` never returns them."""


def behaviour_of(post_id: str, share: float) -> str:
    """How the server answers for a post's picture: one of BEHAVIOURS for about `share` of all posts, else NORMAL.

    A hash of the post's id decides, so the order and number of posts do not matter.
    """
    digest = hashlib.sha256(post_id.encode()).digest()
    if int.from_bytes(digest[:8], "big") >= share * 2**64:
        return NORMAL
    return list(BEHAVIOURS)[int.from_bytes(digest[8:12], "big") % len(BEHAVIOURS)]
