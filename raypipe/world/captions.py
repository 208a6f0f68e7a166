"""Captions of generated posts: a short phrase and exactly as many different hashtags as the post has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_HASHTAGS = 30
"""The feed's limit of hashtags per post."""

# fmt: off
TAGS = (
    "selfie", "love", "me", "instagood", "picoftheday", "happy", "smile", "like4like", "followme",
    "photooftheday", "selfietime", "cute", "beautiful", "fashion", "style", "girl", "friends", "fun",
    "instadaily", "makeup", "nofilter", "life", "boy", "hair", "night", "model", "summer",
    "art", "autumn", "eyes", "weekend", "family", "goodmorning", "sunday", "music", "sunset",
    "coffee", "travel", "work", "gym", "party", "look", "beauty", "nature", "food",
    "dog", "cat", "beach", "city", "home", "winter", "november", "car", "school",
    "throwback", "mood", "bored", "morning", "lips", "glasses", "portrait", "light", "blackandwhite",
)
# fmt: on
"""Tags from the most to the least common. #selfie comes first because every post has it."""

_PHRASES = (
    "",
    "good light today",
    "hello from here",
    "new hair, same me",
    "Sunday mood 😊",
    "back home",
    "can't complain",
    "this weather ☀️",
    "just me",
    "one of those days…",
    "waiting for the weekend",
    "long time no post",
    "à bientôt",
    "no caption needed",
    "first coffee ☕",
    "guess where I am",
)
# Zipf's law with exponent 0.8: a few tags are very common, most are rare.
_POPULARITY = 1.0 / np.arange(1, len(TAGS)) ** 0.8
_ROWS_AT_A_TIME = 16_384


@dataclass(frozen=True)
class Captions:
    """Captions of all posts as indices: `phrases` is (n,); post i has the tags `tags[offsets[i]:offsets[i + 1]]`."""

    phrases: NDArray[np.uint8]
    tags: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def texts(self, start: int, stop: int) -> list[str]:
        """The captions of posts `start` to `stop`."""
        words = np.array([f"#{tag}" for tag in TAGS], dtype=object)[self.tags[self.offsets[start] : self.offsets[stop]]]
        bounds = (self.offsets[start : stop + 1] - self.offsets[start]).tolist()
        return [
            " ".join([_PHRASES[phrase], *words[low:high]]).strip()
            for phrase, low, high in zip(self.phrases[start:stop].tolist(), bounds, bounds[1:], strict=False)
        ]


def generate_captions(rng: np.random.Generator, n_hashtags: NDArray[np.int32]) -> Captions:
    """A caption for each post: #selfie and `n_hashtags` - 1 different others; `n_hashtags` is 1 to 30.

    Tags are drawn without replacement, popular ones more often, in one pass. The method takes the k smallest of
    independent Exponential(popularity) times (the exponential race; Efraimidis and Spirakis 2006).
    """
    n = len(n_hashtags)
    offsets = np.concatenate([[0], np.cumsum(n_hashtags, dtype=np.int64)])
    tags = np.zeros(int(offsets[-1]), dtype=np.uint8)
    places = np.arange(MAX_HASHTAGS)
    for start in range(0, n, _ROWS_AT_A_TIME):
        counts = n_hashtags[start : start + _ROWS_AT_A_TIME]
        times = rng.standard_exponential((len(counts), len(_POPULARITY)), method="inv") / _POPULARITY
        order = np.argsort(times, axis=1)[:, :MAX_HASHTAGS].astype(np.uint8) + 1
        rows = np.concatenate([np.zeros((len(counts), 1), dtype=np.uint8), order[:, : MAX_HASHTAGS - 1]], axis=1)
        tags[offsets[start] : offsets[start + len(counts)]] = rows[places < counts[:, None]]
    phrases = rng.integers(len(_PHRASES), size=n, dtype=np.uint8)
    return Captions(phrases, tags, offsets)
