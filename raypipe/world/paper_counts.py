"""The paper's funnel (section 3): how many of N collected posts are deleted, show a face, or show exactly one face."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from raypipe.statistics.paper import COLLECTED, COMMENTS, ONE_FACE, PRESENT, USERS, WITH_FACE
from raypipe.world.draw import MAX_FACES

DELETED = COLLECTED - PRESENT
NO_PICTURE = -1

# The paper does not say how many people its group pictures show: pairs are common, larger groups rare.
_GROUP_SHARES = {2: 0.7, 3: 0.2, MAX_FACES: 0.1}


@dataclass(frozen=True)
class PostCounts:
    """Counts of posts. `users` and `comments` are counted over the posts that still exist at the revisit."""

    posts: int
    deleted: int
    present: int
    with_face: int
    one_face: int
    users: int
    comments: int

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def paper_counts(posts: int) -> PostCounts:
    """The paper's shares of `posts`, each rounded to a whole post. For 486,149 posts they are the paper's counts.

    Raises ValueError if `posts` is less than 1.
    """
    if posts < 1:
        raise ValueError(f"posts is {posts}: a world needs at least one post")
    deleted = _share(posts, DELETED, COLLECTED)
    present = posts - deleted
    kept = COLLECTED - DELETED
    return PostCounts(
        posts=posts,
        deleted=deleted,
        present=present,
        with_face=_share(present, WITH_FACE, kept),
        one_face=_share(present, ONE_FACE, kept),
        users=max(1, _share(present, USERS, kept)),
        comments=_share(present, COMMENTS, kept),
    )


def _share(n: int, part: int, whole: int) -> int:
    # Integer arithmetic, because a float product could differ from the paper's count by one.
    return (2 * n * part + whole) // (2 * whole)


def sample_face_counts(rng: np.random.Generator, counts: PostCounts) -> NDArray[np.int8]:
    """The number of faces in each post's picture, in random order: int8 (posts,), -1 (NO_PICTURE) for deleted posts."""
    groups = counts.with_face - counts.one_face
    pairs, threes = round(groups * _GROUP_SHARES[2]), round(groups * _GROUP_SHARES[3])
    threes = min(threes, groups - pairs)
    sizes = {
        NO_PICTURE: counts.deleted,
        0: counts.present - counts.with_face,
        1: counts.one_face,
        2: pairs,
        3: threes,
        MAX_FACES: groups - pairs - threes,
    }
    faces = np.repeat(np.array(list(sizes), dtype=np.int8), list(sizes.values()))
    return rng.permutation(faces)
