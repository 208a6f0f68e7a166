"""The painter: masks cover their shapes, blur keeps their weight, and curves pass through their knots."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raypipe.world.draw.canvas import Canvas, curve, ellipse, gradient, hsv, line_outlines, mix, noise, rectangle


@pytest.fixture
def canvas() -> Canvas:
    return Canvas(Image.new("RGB", (120, 100), (10, 20, 30)))


def _weight(mask) -> float:
    return float(np.asarray(mask.image, dtype=float).sum() / 255)


@settings(max_examples=60)
@given(
    x=st.floats(-40, 160),
    y=st.floats(-40, 140),
    radius=st.floats(1, 60),
    blur=st.sampled_from([0.0, 0.8, 2.0, 5.0, 12.0]),
)
def test_masks_stay_inside_the_canvas(x, y, radius, blur):
    canvas = Canvas(Image.new("RGB", (120, 100)))
    mask = canvas.mask([ellipse(x, y, radius, radius)], blur)
    assert mask.left >= 0
    assert mask.top >= 0
    assert mask.left + mask.image.width <= 120
    assert mask.top + mask.image.height <= 100
    canvas.paint(mask, (255, 0, 0))
    assert canvas.image.size == (120, 100)


@pytest.mark.parametrize("blur", [0.0, 1.0, 2.0, 5.0])
def test_mask_weight_equals_shape_area(canvas, blur):
    # Pillow's polygons include their edge: half a drawn pixel, or a whole one if a blur is drawn at half size.
    assert _weight(canvas.mask([ellipse(60, 50, 20, 15)], blur)) == pytest.approx(np.pi * 300, rel=0.08)


def test_masks_intersect_and_subtract(canvas):
    left, right = canvas.mask([rectangle(20, 20, 60, 60)]), canvas.mask([rectangle(40, 20, 80, 60)])
    assert _weight(left.within(right)) == pytest.approx(800, rel=0.08)
    assert _weight(left.without(right)) == pytest.approx(800, rel=0.08)
    far = canvas.mask([rectangle(100, 80, 110, 90)])
    assert _weight(left.within(far)) == 0


def test_paint_mixes_by_opacity(canvas):
    canvas.fill(rectangle(10, 10, 60, 60), (210, 220, 230), 0.5)
    assert canvas.image.getpixel((30, 30)) == pytest.approx((110, 120, 130), abs=2)
    assert canvas.image.getpixel((90, 90)) == (10, 20, 30)
    area = canvas.mask([rectangle(70, 10, 100, 60)])
    canvas.paint(area, gradient(area.image.size, ((0, 0, 0), (250, 250, 250))), 0.5)
    assert canvas.image.getpixel((85, 15))[0] < canvas.image.getpixel((85, 55))[0]


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-50, 50)), min_size=3, max_size=9))
def test_curves_pass_through_their_knots(knots):
    assert curve(knots, steps=5)[::5] == pytest.approx(np.array(knots), abs=1e-9)
    opened = curve(knots, closed=False, steps=5)
    assert opened[::5] == pytest.approx(np.array(knots), abs=1e-9)


def test_ribbons_have_requested_width_and_taper(canvas):
    line = np.array([(float(x), 50.0) for x in range(10, 111, 5)])
    assert _weight(canvas.mask(line_outlines([line], 8.0))) == pytest.approx(800, rel=0.12)
    assert _weight(canvas.mask(line_outlines([line], 8.0, tapered=True))) < 700
    assert len(line_outlines([line, line[:3]], 2.0)) == 2


def test_gradients_run_through_their_stops():
    image = np.asarray(gradient((5, 101), ((0, 0, 0), (200, 100, 50), (0, 0, 0))), dtype=int)
    assert image[0, 0] == pytest.approx((0, 0, 0), abs=3)
    assert image[50, 2] == pytest.approx((200, 100, 50), abs=4)
    across = np.asarray(gradient((101, 5), ((0, 0, 0), (250, 250, 250)), vertical=False), dtype=int)[2, :, 0]
    assert np.all(np.diff(across) >= 0)


def test_hsv_and_mix_give_expected_colours():
    assert hsv(0.0, 1.0, 1.0) == pytest.approx((255, 0, 0))
    assert hsv(1 / 3, 1.0, 1.0) == pytest.approx((0, 255, 0))
    assert hsv(-1 / 3, 1.0, 1.0) == pytest.approx((0, 0, 255))
    assert mix((0, 0, 0), (100, 200, 40), 0.25) == pytest.approx((25, 50, 10))


def test_noise_is_smooth_and_has_requested_size():
    image = noise(np.random.default_rng(0), (90, 60), 5)
    levels = np.asarray(image, dtype=float)
    assert image.size == (90, 60)
    assert levels.std() > 10
    assert np.abs(np.diff(levels, axis=1)).mean() < 12
