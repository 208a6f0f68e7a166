"""The planted look: neutral at 0, continuous, monotone, clipped, and visible in colour and softness."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from raypipe.world.draw import LOOK_LIMIT, draw_picture
from raypipe.world.draw.colour_grade import apply_look


@pytest.fixture(scope="module")
def portrait() -> Image.Image:
    return draw_picture(np.random.default_rng(21), n_faces=1, look=0.0)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float64)


def _warmth(image: Image.Image) -> float:
    red, _, blue = _pixels(image).mean(axis=(0, 1))
    return float(red - blue)


def _saturation(image: Image.Image) -> float:
    pixels = _pixels(image)
    return float((pixels.max(axis=2) - pixels.min(axis=2)).mean())


def _seed_of(washed_out: bool) -> int:
    return next(seed for seed in range(50) if (np.random.default_rng(seed).random() < 0.5) == washed_out)


def test_look_of_zero_changes_nothing(portrait):
    assert apply_look(portrait, 0.0, np.random.default_rng(0)).tobytes() == portrait.tobytes()


@pytest.mark.parametrize("seed", range(8))
def test_grade_grows_with_look_in_both_directions(portrait, seed):
    for sign in (-1, 1):
        moved = [
            np.abs(_pixels(apply_look(portrait, sign * size, np.random.default_rng(seed))) - _pixels(portrait)).mean()
            for size in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
        ]
        assert np.all(np.diff(moved) > 0)
        assert moved[-1] > 15


@pytest.mark.parametrize("seed", range(8))
def test_the_grade_is_continuous(portrait, seed):
    looks = np.arange(-2.6, 2.61, 0.1)
    graded = [_pixels(apply_look(portrait, look, np.random.default_rng(seed))) for look in looks]
    steps = [np.abs(b - a).mean() for a, b in pairwise(graded)]
    assert max(steps) < 4


def test_looks_beyond_the_limit_are_clipped(portrait):
    for sign in (-1, 1):
        at, beyond = (apply_look(portrait, sign * look, np.random.default_rng(1)) for look in (LOOK_LIMIT, 40.0))
        assert at.tobytes() == beyond.tobytes()


def test_a_high_look_is_warm_and_gentle(portrait):
    graded = [apply_look(portrait, look, np.random.default_rng(0)) for look in (0.0, 0.8, 1.6, 2.4)]
    assert np.all(np.diff([_warmth(image) for image in graded]) > 2)
    corners = [_pixels(image)[:20, :20].mean() - _pixels(image).mean() for image in graded]
    assert corners[-1] < corners[0]


def test_a_low_look_is_washed_out_or_garish(portrait):
    washed = apply_look(portrait, -2.5, np.random.default_rng(_seed_of(True)))
    garish = apply_look(portrait, -2.5, np.random.default_rng(_seed_of(False)))
    assert _saturation(washed) < 0.5 * _saturation(portrait)
    assert np.percentile(_pixels(washed), 1) > np.percentile(_pixels(portrait), 1) + 30
    assert _saturation(garish) > 1.2 * _saturation(portrait)


def test_warmth_follows_the_look_across_different_pictures():
    looks = np.random.default_rng(0).normal(size=160)
    warmth = [
        _warmth(draw_picture(np.random.default_rng([2, seed]), n_faces=1, look=float(look)).reduce(4))
        for seed, look in enumerate(looks)
    ]
    correlation = np.corrcoef(looks, warmth)[0, 1]
    # The correlation is clear but limited, since backgrounds, skin and cameras differ too.
    assert 0.25 < correlation < 0.9


@pytest.mark.parametrize("n_faces", [0, 3])
def test_groups_and_scenes_show_the_look(n_faces):
    cold, warm = (draw_picture(np.random.default_rng(6), n_faces=n_faces, look=look) for look in (-2.0, 2.0))
    assert _warmth(warm) > _warmth(cold) + 5
