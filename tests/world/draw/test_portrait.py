"""One person: each style, garment and hat is painted in its place, and one face stays detectable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raypipe.world.draw.canvas import Canvas, gradient
from raypipe.world.draw.hats import paint_hat
from raypipe.world.draw.person import GARMENTS, STYLES, PersonTraits, Pose, sample_person
from raypipe.world.draw.portrait import paint_person, shadow_of

dlib = pytest.importorskip("dlib")
SIZE = (320, 400)
POSE = Pose(x=160, y=170, unit=66, tilt=0.04, yaw=0.05, light=0.6)


@pytest.fixture(scope="module")
def count_faces():
    detector = dlib.get_frontal_face_detector()
    return lambda pixels: len(detector(pixels, 1))


@pytest.fixture(scope="module")
def plain() -> PersonTraits:
    """A person of medium skin tone without hat, glasses or other accessories."""
    person = sample_person(np.random.default_rng(4))
    skin, hair = (200.0, 150.0, 115.0), (45.0, 33.0, 29.0)
    bare = {"style": "short", "hat": "", "glasses": False, "beard": 0.0, "freckles": False, "earrings": False}
    return replace(person, tone=0.5, skin=skin, hair=hair, garment="crew", cloth=(60.0, 90.0, 150.0), **bare)


def _painted(person: PersonTraits, pose: Pose = POSE) -> np.ndarray:
    canvas = Canvas(gradient(SIZE, ((150, 170, 190), (110, 130, 150))))
    paint_person(canvas, person, pose)
    return np.asarray(canvas.image)


def _patch(pixels: np.ndarray, x: float, y: float, radius: int = 3) -> np.ndarray:
    column, row = (round(v) for v in POSE.head_pixel(x, y))
    return pixels[row - radius : row + radius, column - radius : column + radius].astype(float).mean(axis=(0, 1))


def _changed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows and columns of the pixels that differ, (n, 2)."""
    return np.argwhere(np.abs(first.astype(int) - second.astype(int)).max(axis=2) > 12)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_leaves_one_face(count_faces, plain, style):
    assert count_faces(_painted(replace(plain, style=style))) == 1


@pytest.mark.parametrize("garment", GARMENTS)
def test_every_garment_leaves_one_face(count_faces, plain, garment):
    assert count_faces(_painted(replace(plain, garment=garment))) == 1


@pytest.mark.parametrize("hat", ["beanie", "cap", "sunhat"])
@pytest.mark.parametrize("style", ["bald", "short", "long"])
def test_every_hat_leaves_one_face(count_faces, plain, hat, style):
    assert count_faces(_painted(replace(plain, hat=hat, style=style))) == 1


@pytest.mark.parametrize("tilt", [-0.15, 0.15])
@pytest.mark.parametrize("yaw", [-0.22, 0.22])
def test_turned_heads_are_found(count_faces, plain, tilt, yaw):
    assert count_faces(_painted(plain, replace(POSE, tilt=tilt, yaw=yaw))) == 1


@pytest.mark.parametrize("tone", [0, 1])
def test_extreme_skin_tones_are_found_under_any_hair(count_faces, plain, tone):
    skin = ((246.0, 214.0, 194.0), (92.0, 62.0, 47.0))[tone]
    for hair in ((28.0, 24.0, 26.0), (226.0, 200.0, 152.0)):
        assert count_faces(_painted(replace(plain, tone=float(tone), skin=skin, hair=hair))) == 1


def test_painting_is_deterministic(plain):
    assert np.array_equal(_painted(plain), _painted(plain))


def test_hats_lie_above_the_eyes(plain):
    for hat in ("beanie", "cap", "sunhat"):
        rows = _changed(_painted(plain), _painted(replace(plain, hat=hat)))[:, 0]
        assert len(rows) > 1000
        assert rows.max() < POSE.y - 0.25 * POSE.unit


def test_no_hat_paints_nothing(plain):
    canvas = Canvas(gradient(SIZE, ((150, 170, 190), (110, 130, 150))))
    before = canvas.image.tobytes()
    paint_hat(canvas, plain, POSE)
    assert canvas.image.tobytes() == before


def test_clothes_fill_from_below_chin_to_edge(plain):
    for small in (0.3, 1.0):
        pose = replace(POSE, unit=POSE.unit * small, tilt=0.0, yaw=0.0)
        changed = _changed(_painted(plain, pose), _painted(replace(plain, cloth=(190.0, 60.0, 60.0)), pose))
        assert changed[:, 0].max() == SIZE[1] - 1
        assert changed[:, 0].min() > pose.y + 1.5 * pose.unit


def test_only_long_hair_falls_below_chin(plain):
    bald = _painted(replace(plain, style="bald"))
    lowest = {
        style: _changed(bald, _painted(replace(plain, style=style)))[:, 0].max()
        for style in ("long", "wavy", "short", "swept", "bun")
    }
    chin = POSE.y + 1.68 * POSE.unit
    assert lowest["long"] > chin
    assert lowest["wavy"] > chin
    assert max(lowest["short"], lowest["swept"], lowest["bun"]) < chin


def test_hair_keeps_the_middle_of_the_face_free(plain):
    bald = _painted(replace(plain, style="bald"))
    for style in STYLES:
        other = _painted(replace(plain, style=style))
        for x, y in ((0.0, 0.3), (-0.45, 0.45), (0.45, 0.45), (0.0, 1.0)):
            assert _patch(other, x, y) == pytest.approx(_patch(bald, x, y), abs=3)


def test_the_lit_cheek_is_brighter(plain):
    for light in (-0.9, 0.9):
        pixels = _painted(plain, replace(POSE, light=light))
        left, right = (_patch(pixels, x, 0.7).mean() for x in (-0.75, 0.75))
        assert (right > left) == (light > 0)


def test_a_beard_darkens_the_chin_only(plain):
    shaven, bearded = _painted(plain), _painted(replace(plain, beard=1.0))
    assert _patch(bearded, 0.0, 1.5).mean() < _patch(shaven, 0.0, 1.5).mean() - 25
    assert _patch(bearded, 0.0, -0.7) == pytest.approx(_patch(shaven, 0.0, -0.7), abs=1)


def test_an_open_smile_shows_teeth(plain):
    closed = _painted(replace(plain, smile=1.0, open_mouth=0.0))
    opened = _painted(replace(plain, smile=1.0, open_mouth=1.0))
    x, y = POSE.face_pixel(0.0, 1.1, 0.05)
    row, column = round(y), round(x)
    assert opened[row - 3 : row + 3, column].min(axis=1).max() > 200
    assert closed[row - 3 : row + 3, column].min(axis=1).max() < 190


def test_shaded_skin_is_darker_and_redder(plain):
    shadow = np.array(shadow_of(plain))
    skin = np.array(plain.skin)
    assert np.all(shadow < skin)
    assert shadow[0] / shadow.sum() > skin[0] / skin.sum()
