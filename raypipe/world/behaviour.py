"""How the local server may answer a request for a picture, and which pictures it answers so."""

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
"""What a picture's server does, and the status of `images/` that a careful fetcher gives in the end.

`429` (with Retry-After) and `500` come once, then the picture; `slow` drips it; `truncated` breaks the connection off,
`half` ends the file early with nothing wrong in the protocol; `wrong_type` sends a web page, `disguised` one that says
it is a JPEG; `redirect` leads to the picture, `redirect_loop` nowhere.
"""

ON_DEMAND = {"403": "forbidden", "reset": "connection"}
"""What can be asked for besides, and is in no picture's nature."""


def behaviour_of(post_id: str, share: float) -> str:
    """How the server treats a post's picture: one of BEHAVIOURS for about `share` of all posts, else NORMAL.

    By a hash of the post's name, so that neither order nor number of posts matters.
    """
    digest = hashlib.sha256(post_id.encode()).digest()
    if int.from_bytes(digest[:8], "big") >= share * 2**64:
        return NORMAL
    return list(BEHAVIOURS)[int.from_bytes(digest[8:12], "big") % len(BEHAVIOURS)]
