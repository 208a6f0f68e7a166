"""Whole pictures: a portrait, a group or a scene without people, graded by its look; and their JPEG bytes."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from raypipe.world.draw.canvas import Canvas, ellipse, gradient, hsv, mix
from raypipe.world.draw.colour_grade import apply_look
from raypipe.world.draw.landscape import PLACE_SCENES
from raypipe.world.draw.object_scenes import OBJECT_SCENES
from raypipe.world.draw.person import Pose, sample_person
from raypipe.world.draw.portrait import paint_person

MAX_FACES = 4
_SHAPES = ((1, 1), (4, 5), (3, 4), (2, 3), (5, 4), (4, 3))
_SHAPE_WEIGHTS = (0.3, 0.25, 0.2, 0.1, 0.08, 0.07)


def draw_picture(
    rng: np.random.Generator, *, n_faces: int, look: float, size: tuple[int, int] | None = None
) -> Image.Image:
    """An RGB picture with `n_faces` (0 to 4) faces, graded by `look` (clipped to ±2.5; see `colour_grade`).

    `size` is (width, height) in pixels. By default the short side is 240 to 400 pixels and the shape varies. The same
    state of `rng` gives the same picture; another `look` changes only its light and colours.
    Raises ValueError if `n_faces` is not 0 to 4, a side is below 96 pixels, or `look` is not finite.
    """
    if not 0 <= n_faces <= MAX_FACES:
        raise ValueError(f"n_faces is {n_faces}: draw_picture draws 0 to {MAX_FACES} faces")
    if not math.isfinite(look):
        raise ValueError(f"look is {look}: it must be a finite number")
    if size is None:
        size = _sample_size(rng, n_faces)
    if min(size) < 96:
        raise ValueError(f"size is {size}: each side needs at least 96 pixels, so that a face can be found")
    image = _scene(rng, size) if n_faces == 0 else _people(rng, size, n_faces)
    return _grain(apply_look(_ambient(image, rng), look, rng), rng)


def encode_jpeg(image: Image.Image, rng: np.random.Generator) -> bytes:
    """`image` as JPEG bytes, with a random quality from 75 to 92."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(75, 93)))
    return buffer.getvalue()


def _sample_size(rng: np.random.Generator, n_faces: int) -> tuple[int, int]:
    across, down = _SHAPES[int(rng.choice(len(_SHAPES), p=_SHAPE_WEIGHTS))]
    if n_faces > 2 and down > across:
        across, down = down, across
    short = int(rng.integers(240 if n_faces < 2 else 280, 401 if n_faces != 1 else 361))
    scale = short / min(across, down)
    return round(across * scale), round(down * scale)


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    kinds = (*PLACE_SCENES, *OBJECT_SCENES)
    return kinds[int(rng.integers(len(kinds)))](rng, size)


def _people(rng: np.random.Generator, size: tuple[int, int], n_faces: int) -> Image.Image:
    canvas = Canvas(_backdrop(rng, size))
    light = float(rng.choice([-1, 1])) * float(rng.uniform(0.25, 1.0))
    for pose in _poses(rng, size, n_faces, light):
        paint_person(canvas, sample_person(rng), pose)
    return canvas.image


def _poses(rng: np.random.Generator, size: tuple[int, int], n_faces: int, light: float) -> list[Pose]:
    width, height = size
    poses = []
    room = width / n_faces
    if n_faces == 1:
        unit = min(width, height * 0.9) * float(rng.uniform(0.175, 0.26))
    else:
        unit = min(room * 0.30, height * 0.16) * float(rng.uniform(0.92, 1.0))
    for place in range(n_faces):
        spread = 0.5 * max(0.0, room - 2.9 * unit) if n_faces > 1 else 0.08 * width
        x = room * (place + 0.5) + float(rng.uniform(-1, 1)) * min(spread, 0.1 * width)
        low, high = 2.1 * unit, height - 2.4 * unit
        y = low + (high - low) * float(rng.uniform(0.25, 0.75))
        tilt, yaw = float(np.clip(rng.normal(0, 0.07), -0.15, 0.15)), float(np.clip(rng.normal(0, 0.12), -0.22, 0.22))
        poses.append(Pose(x, y, unit * float(rng.uniform(0.94, 1.0)), tilt, yaw, light))
    poses.sort(key=lambda pose: pose.y)
    return poses


def _backdrop(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """The background of people: a blurred place, a studio wall, or lights at night."""
    kind = rng.random()
    half = (size[0] // 2 + 1, size[1] // 2 + 1)
    if kind < 0.6:
        place = PLACE_SCENES[int(rng.integers(len(PLACE_SCENES)))](rng, half)
        soft = place.filter(ImageFilter.GaussianBlur(float(rng.uniform(1.5, 4.5))))
        return soft.resize(size, Image.Resampling.BILINEAR)
    hue = float(rng.random())
    if kind < 0.82:
        tone = hsv(hue, float(rng.uniform(0.05, 0.6)), float(rng.uniform(0.35, 0.95)))
        canvas = Canvas(gradient(size, (tone, mix(tone, (20, 18, 24), 0.35))))
        x, y, r = size[0] * float(rng.uniform(0.2, 0.8)), size[1] * 0.4, max(size) * 0.4
        canvas.fill(ellipse(x, y, r, r), mix(tone, (255, 250, 240), 0.5), 0.7, r * 0.45)
        return canvas.image
    canvas = Canvas(gradient(size, (hsv(hue, 0.5, 0.22), hsv(hue + 0.1, 0.45, 0.4))))
    for _ in range(int(rng.integers(14, 30))):
        r = min(size) * float(rng.uniform(0.02, 0.08))
        spot = ellipse(size[0] * float(rng.random()), size[1] * float(rng.random()), r, r, points=24)
        canvas.fill(
            spot,
            hsv(hue + float(rng.normal(0, 0.12)), float(rng.uniform(0.2, 0.6)), 1.0),
            float(rng.uniform(0.2, 0.6)),
            1.6,
        )
    return canvas.image


def _ambient(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Random exposure and white balance, as of a camera, so that colour alone does not reveal the look."""
    gains = np.exp(rng.normal(0, 0.035, 3) + rng.normal(0, 0.07))
    table: list[int] = []
    for gain in gains:
        table += np.clip(np.arange(256) * gain, 0, 255).round().astype(int).tolist()
    return image.point(table)


def _grain(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    strength = float(rng.uniform(1.0, 4.0))
    tile = np.clip(rng.normal(128, strength, (96, 96)), 0, 255).astype(np.uint8)
    width, height = image.size
    spread = np.tile(tile, (-(-height // 96), -(-width // 96)))[:height, :width]
    grain = Image.fromarray(np.ascontiguousarray(spread))
    return ImageChops.add(image, Image.merge("RGB", (grain, grain, grain)), offset=-128)
