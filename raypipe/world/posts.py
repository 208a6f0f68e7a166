"""Generated posts: reach, hashtags, likes from a known formula, comments, users and times.

Each column comes from its own random stream over all posts, so rows do not depend on how they are cut into files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raypipe.config.data_options import WorldOptions
from raypipe.errors import InputError
from raypipe.tables.schemas import POSTS
from raypipe.world.captions import MAX_HASHTAGS, Captions, generate_captions
from raypipe.world.paper_counts import NO_PICTURE, PostCounts, paper_counts, sample_face_counts

HOST = "127.0.0.1"
_FIRST_DAY = np.datetime64("2016-11-08T00:00:00", "us")
_WEEK = np.timedelta64(7, "D")
_MAX_FOLLOWERS = 100_000_000
_MAX_LOG_LIKES = 12.0
# Relative number of posts per hour of the day (UTC): more when people are awake.
_HOURS = np.array([3, 2, 2, 2, 2, 3, 4, 5, 5, 5, 5, 5, 6, 6, 5, 5, 5, 6, 6, 7, 7, 6, 5, 4], dtype=float)


class RandomStream(IntEnum):
    """Independent random streams of one world. A number is never reused for another purpose."""

    FUNNEL = 1
    TIME = 2
    USERS = 3
    FOLLOWERS = 4
    HASHTAGS = 5
    LOOK = 6
    NOISE = 7
    COMMENTS = 8
    CAPTIONS = 9
    PICTURES = 10


def random_generator(seed: int, purpose: RandomStream, *more: int) -> np.random.Generator:
    """The generator for one purpose in the world of `seed`; for a single post if its number is in `more`."""
    return np.random.default_rng([seed, int(purpose), *more])


@dataclass(frozen=True)
class GeneratedPosts:
    """All posts of a world, ordered by time, as arrays of shape (posts,).

    `n_faces` is -1 for deleted posts. `look` is standard normal. `visual` and `noise` are the two terms of
    log10(1+likes) that the table `posts/` does not show.
    """

    counts: PostCounts
    port: int
    post_ids: NDArray[np.int64]
    users: NDArray[np.int32]
    created_at: NDArray[np.datetime64]
    collected_at: NDArray[np.datetime64]
    followers: NDArray[np.int64]
    n_hashtags: NDArray[np.int32]
    likes: NDArray[np.int64]
    comments: NDArray[np.int64]
    n_faces: NDArray[np.int8]
    look: NDArray[np.float64]
    visual: NDArray[np.float64]
    noise: NDArray[np.float64]
    captions: Captions

    @property
    def deleted(self) -> NDArray[np.bool_]:
        """Whether each post was gone at the revisit."""
        return np.equal(self.n_faces, NO_PICTURE)

    def urls(self, start: int, stop: int) -> list[str]:
        """The addresses of the pictures of posts `start` to `stop` on the local server."""
        return [f"http://{HOST}:{self.port}/p/{number}.jpg" for number in self.post_ids[start:stop].tolist()]

    def table(self, start: int, stop: int) -> pa.Table:
        """Posts `start` to `stop` in the schema of `posts/`."""
        rows = slice(start, stop)
        return pa.Table.from_pydict(
            {
                "post_id": list(map(str, self.post_ids[rows].tolist())),
                "image_url": self.urls(start, stop),
                "user_id": [f"user{number:07d}" for number in self.users[rows].tolist()],
                "likes": self.likes[rows],
                "followers": self.followers[rows],
                "comments": self.comments[rows],
                "caption": self.captions.texts(start, stop),
                "n_hashtags": self.n_hashtags[rows],
                "created_at": self.created_at[rows],
                "collected_at": self.collected_at[rows],
                "revisited_at": self.collected_at[rows] + _WEEK,
                "deleted": self.deleted[rows],
            },
            schema=POSTS,
        )


def generate_posts(options: WorldOptions, seed: int) -> GeneratedPosts:
    """Generate `options.posts` posts from `seed`. They are the same on every machine with the same NumPy version.

    Raises InputError if the coefficients give a post more than 10^12 likes.
    """
    counts = paper_counts(options.posts)
    n = counts.posts
    n_faces = sample_face_counts(random_generator(seed, RandomStream.FUNNEL), counts)
    created_at, collected_at = _times(random_generator(seed, RandomStream.TIME), n)
    users = _users(random_generator(seed, RandomStream.USERS), n_faces != NO_PICTURE, counts.users)
    followers = _followers(random_generator(seed, RandomStream.FOLLOWERS), int(users.max()) + 1)[users]
    n_hashtags = _hashtags(random_generator(seed, RandomStream.HASHTAGS), n)
    look = random_generator(seed, RandomStream.LOOK).standard_normal(n)
    visual = options.effect * look
    noise = options.noise * random_generator(seed, RandomStream.NOISE).standard_normal(n)
    likes = _likes(options, followers, n_hashtags, visual + noise)
    comments = _comments(random_generator(seed, RandomStream.COMMENTS), likes, n_faces != NO_PICTURE, counts.comments)
    captions = generate_captions(random_generator(seed, RandomStream.CAPTIONS), n_hashtags)
    return GeneratedPosts(
        counts=counts,
        port=options.port,
        post_ids=_post_ids(created_at),
        users=users,
        created_at=created_at,
        collected_at=collected_at,
        followers=followers,
        n_hashtags=n_hashtags,
        likes=likes,
        comments=comments,
        n_faces=n_faces,
        look=look,
        visual=visual,
        noise=noise,
        captions=captions,
    )


def _post_ids(created_at: NDArray[np.datetime64]) -> NDArray[np.int64]:
    # Mastodon's scheme: milliseconds, shifted by 16 bits, plus a running number. All ids have 17 digits, so they
    # sort the same as text, as numbers and by time.
    milliseconds = created_at.astype("datetime64[ms]").astype(np.int64)
    numbers: NDArray[np.int64] = (milliseconds << 16) + np.arange(len(created_at)) % (1 << 16)
    return numbers


def _times(rng: np.random.Generator, n: int) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
    days = rng.integers(7, size=n)
    hours = rng.choice(24, size=n, p=_HOURS / _HOURS.sum())
    seconds = np.sort(days * 86_400 + hours * 3_600 + rng.random(n) * 3_600)
    created = _FIRST_DAY + (seconds * 1e6).astype("timedelta64[us]")
    # "Only freshly-posted images" (section 3): a crawler sees a post ten minutes after it appears, on average.
    delay = np.minimum(rng.exponential(600.0, n), 3_600.0)
    return created, created + (delay * 1e6).astype("timedelta64[us]")


def _users(rng: np.random.Generator, present: NDArray[np.bool_], users: int) -> NDArray[np.int32]:
    """The user of each post. Present posts have exactly `users` different users: most post once, some very often."""
    weights = np.cumsum(rng.pareto(1.5, users) + 0.05)
    order = rng.permutation(np.flatnonzero(present))
    found = np.zeros(len(present), dtype=np.int32)
    found[order[:users]] = np.arange(min(users, len(order)))
    found[order[users:]] = _draw(rng, weights, len(order) - min(users, len(order)))
    deleted = np.flatnonzero(~present)
    once = rng.random(len(deleted)) < users / max(1, len(order))
    found[deleted] = np.where(once, users + np.arange(len(deleted)), _draw(rng, weights, len(deleted)))
    return found


def _draw(rng: np.random.Generator, cumulative: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    drawn: NDArray[np.int64] = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
    return drawn


def _followers(rng: np.random.Generator, users: int) -> NDArray[np.int64]:
    """Followers of each user: log-normal around 300 for ordinary people, and a Pareto tail above 2,000 for 3 %."""
    ordinary = 300 * 10 ** (0.45 * rng.standard_normal(users))
    known = 2_000 * (1 + rng.pareto(0.9, users))
    drawn = np.where(rng.random(users) < 0.03, known, ordinary)
    return np.minimum(drawn, _MAX_FOLLOWERS).astype(np.int64)


def _hashtags(rng: np.random.Generator, n: int) -> NDArray[np.int32]:
    """Hashtags per post: #selfie and a log-normal number of others, cut at 30. Real posts also pile up at the limit."""
    others = np.exp(1.3 + 1.0 * rng.standard_normal(n))
    return (1 + np.minimum(others, MAX_HASHTAGS - 1)).astype(np.int32)


def _likes(
    options: WorldOptions, followers: NDArray[np.int64], n_hashtags: NDArray[np.int32], unseen: NDArray[np.float64]
) -> NDArray[np.int64]:
    """log10(1+likes) = a + b·log10(1+followers) + c·hashtags + visual effect + noise, in whole likes of at least 0."""
    log_likes = options.intercept + options.followers * np.log10(1 + followers) + options.hashtags * n_hashtags + unseen
    highest = float(log_likes.max())
    if highest > _MAX_LOG_LIKES:
        raise InputError(
            f"world.intercept, followers, hashtags, effect, noise: give a post 10^{highest:.0f} likes; "
            f"use smaller values (at most 10^{_MAX_LOG_LIKES:.0f} likes)"
        )
    return np.maximum(0, np.rint(10**log_likes - 1)).astype(np.int64)


def _comments(
    rng: np.random.Generator, likes: NDArray[np.int64], present: NDArray[np.bool_], total: int
) -> NDArray[np.int64]:
    """Comments per post. The present posts share `total` in proportion to likes^0.6 times log-normal noise."""
    weights = (1.0 + likes) ** 0.6 * np.exp(0.9 * rng.standard_normal(len(likes)))
    share = weights / weights[present].sum()
    comments: NDArray[np.int64] = rng.poisson(total * share)
    comments[present] = rng.multinomial(total, share[present])
    return comments
