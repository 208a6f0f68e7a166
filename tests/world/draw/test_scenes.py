"""Scenes and objects without people: each kind fits any shape, and no two pictures are equal."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.world.draw.landscape import PLACE_SCENES
from raypipe.world.draw.object_scenes import OBJECT_SCENES

KINDS = [*PLACE_SCENES, *OBJECT_SCENES]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("size", [(240, 240), (130, 200), (420, 280)])
def test_each_kind_fills_its_picture(kind, size):
    image = kind(np.random.default_rng(1), size)
    assert image.size == size
    assert image.mode == "RGB"
    pixels = np.asarray(image, dtype=float)
    assert pixels.std() > 5
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_kind_varies_and_repeats(kind):
    first, again, other = (kind(np.random.default_rng(seed), (160, 160)).tobytes() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_scenes_come_in_many_hues():
    means = [
        np.asarray(kind(np.random.default_rng(seed), (120, 120)), dtype=float).mean(axis=(0, 1))
        for kind in KINDS
        for seed in range(6)
    ]
    strongest = {int(np.argmax(mean)) for mean in means}
    assert strongest == {0, 1, 2}
    assert np.std([mean.mean() for mean in means]) > 15
