"""Generated people: their traits cover wide ranges, and portraits show their skin tone."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.world.draw.canvas import Canvas, gradient
from raypipe.world.draw.person import GARMENTS, STYLES, Pose, mirrored, sample_person
from raypipe.world.draw.portrait import paint_person


@pytest.fixture(scope="module")
def people():
    rng = np.random.default_rng(0)
    return [sample_person(rng) for _ in range(600)]


def test_skin_tones_cover_the_whole_range_evenly(people):
    counts, _ = np.histogram([person.tone for person in people], bins=6, range=(0, 1))
    assert counts.min() > 600 / 6 * 0.6
    luma = np.array([np.dot(person.skin, (0.299, 0.587, 0.114)) for person in people])
    assert luma.min() < 75
    assert luma.max() > 210


def test_every_style_garment_and_accessory_occurs(people):
    assert {person.style for person in people} == set(STYLES)
    assert {person.garment for person in people} == set(GARMENTS)
    assert {person.hat for person in people} == {"", "beanie", "cap", "sunhat"}
    for trait in ("glasses", "freckles", "earrings", "beard"):
        assert 0.02 < np.mean([bool(getattr(person, trait)) for person in people]) < 0.6


def test_no_hat_is_worn_with_a_hijab(people):
    assert not any(person.hat for person in people if person.style in ("hijab", "afro", "bun", "curls"))


def test_painted_face_has_skin_tone_of_person(people):
    pose = Pose(x=150, y=140, unit=60, tilt=0.0, yaw=0.0, light=0.5)
    named, painted = [], []
    for person in people[:60]:
        canvas = Canvas(gradient((300, 360), ((90, 120, 150), (60, 80, 110))))
        paint_person(canvas, person, pose)
        x, y = pose.face_pixel(0.55, 0.45)
        patch = np.asarray(canvas.image, dtype=float)[int(y) - 4 : int(y) + 4, int(x) - 4 : int(x) + 4]
        named.append(np.mean(person.skin))
        painted.append(patch.mean())
    assert np.corrcoef(named, painted)[0, 1] > 0.95


def test_a_pose_places_turns_and_scales():
    upright = Pose(x=100, y=80, unit=50, tilt=0.0, yaw=0.0, light=0.0)
    assert upright.head_pixel(0, 0) == pytest.approx((100, 80))
    assert upright.head_pixel(1, -1) == pytest.approx((150, 30))
    tilted = Pose(x=100, y=80, unit=50, tilt=np.pi / 2, yaw=0.0, light=0.0)
    assert tilted.head_pixel(0, 1) == pytest.approx((50, 80))
    turned = Pose(x=100, y=80, unit=50, tilt=0.0, yaw=0.2, light=0.0)
    assert turned.face_pixel(0, 0)[0] > 100
    assert turned.face_pixel(0, 0, relief=0.2)[0] > turned.face_pixel(0, 0)[0]


def test_mirrored_outlines_are_symmetric():
    outline = mirrored([(0, -1), (0.5, 0), (0, 1)])
    assert outline == [(0, -1), (0.5, 0), (0, 1), (-0.5, 0)]
