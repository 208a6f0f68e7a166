"""A person in a portrait: random traits from wide ranges, and the pose, which turns face coordinates into pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raypipe.world.draw.canvas import Colour, Points, hsv, mix

# Eight skin tones from light to deep. A person's skin is a mix of two neighbours.
SKIN_TONES: tuple[Colour, ...] = (
    (246, 214, 194),
    (240, 202, 176),
    (230, 186, 154),
    (212, 163, 126),
    (186, 134, 98),
    (152, 104, 74),
    (120, 80, 57),
    (92, 62, 47),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (28, 24, 26),
    (45, 33, 29),
    (74, 50, 36),
    (112, 74, 46),
    (150, 108, 66),
    (202, 166, 110),
    (226, 200, 152),
    (146, 66, 38),
    (168, 166, 168),
    (214, 212, 208),
)
_HAIR_WEIGHTS = np.array([0.2, 0.2, 0.16, 0.12, 0.09, 0.07, 0.04, 0.05, 0.04, 0.03])
_IRISES: tuple[Colour, ...] = (
    (70, 44, 28),
    (92, 60, 34),
    (116, 90, 48),
    (84, 116, 92),
    (86, 122, 156),
    (110, 124, 132),
)
STYLES = ("short", "swept", "curls", "buzz", "bald", "bob", "long", "wavy", "bun", "fringe", "afro", "hijab")
_STYLE_WEIGHTS = np.array([0.13, 0.1, 0.09, 0.05, 0.03, 0.1, 0.13, 0.12, 0.08, 0.07, 0.05, 0.05])
GARMENTS = ("crew", "vneck", "shirt", "hoodie", "stripes", "jacket")


@dataclass(frozen=True)
class PersonTraits:
    """The traits of one person. Lengths are in half face widths; shares are from 0 to 1."""

    tone: float
    skin: Colour
    hair: Colour
    iris: Colour
    style: str
    hat: str
    glasses: bool
    beard: float
    lip: Colour
    blush: float
    jaw: float
    cheek: float
    length: float
    smile: float
    open_mouth: float
    eye_open: float
    brow_weight: float
    lip_weight: float
    nose_width: float
    freckles: bool
    earrings: bool
    lashes: float
    garment: str
    cloth: Colour
    accent: Colour
    hair_seed: int


def sample_person(rng: np.random.Generator) -> PersonTraits:
    """A person with independent random traits, except for those that exclude each other (no fringe under a hijab)."""
    tone = float(rng.random())
    place = tone * (len(SKIN_TONES) - 1)
    step = min(int(place), len(SKIN_TONES) - 2)
    skin = mix(SKIN_TONES[step], SKIN_TONES[step + 1], place - step)
    warmth = float(rng.normal(0, 4))
    skin = (skin[0] + warmth / 2, skin[1], skin[2] - warmth)
    style = str(rng.choice(STYLES, p=_STYLE_WEIGHTS))
    # Fair hair is rarer on deep skin: the index is pulled towards the dark end.
    hair_index = int(rng.choice(len(HAIR_COLOURS), p=_HAIR_WEIGHTS))
    if tone > 0.55 and rng.random() < 0.8:
        hair_index = min(hair_index, int(rng.integers(3)))
    covered = style in ("hijab", "afro", "bun", "curls")
    hat = "" if covered or rng.random() > 0.16 else str(rng.choice(["beanie", "cap", "sunhat"]))
    short = style in ("short", "swept", "curls", "buzz", "bald")
    cloth = hsv(float(rng.random()), float(rng.uniform(0.05, 0.5)), float(rng.uniform(0.2, 0.8)))
    rose = mix(mix(skin, (176, 62, 70), 0.42), (120, 40, 46), 0.25 * tone)
    painted = not short and rng.random() < 0.45
    lip = mix(rose, hsv(float(rng.uniform(-0.06, 0.02)), 0.75, 0.72), 0.55) if painted else rose
    return PersonTraits(
        tone=tone,
        skin=skin,
        hair=tuple(np.array(HAIR_COLOURS[hair_index]) * rng.uniform(0.88, 1.12)),
        iris=_IRISES[int(rng.integers(len(_IRISES)))] if tone < 0.5 else _IRISES[int(rng.integers(3))],
        style=style,
        hat=hat,
        glasses=bool(rng.random() < 0.2),
        beard=float(rng.uniform(0.35, 1.0)) if short and rng.random() < 0.42 else 0.0,
        lip=lip,
        blush=float(rng.uniform(0.1, 0.5)),
        jaw=float(rng.uniform(-0.07, 0.04)) + (0.03 if short else 0.0),
        cheek=float(rng.uniform(-0.03, 0.04)),
        length=float(rng.uniform(0.95, 1.05)),
        smile=float(rng.uniform(0.25, 1.0)),
        open_mouth=float(rng.uniform(0.5, 1.0)) if rng.random() < 0.5 else 0.0,
        eye_open=float(rng.uniform(0.88, 1.15)),
        brow_weight=float(rng.uniform(0.75, 1.2)),
        lip_weight=float(rng.uniform(0.8, 1.25)) * (1 + 0.15 * tone),
        nose_width=float(rng.uniform(0.88, 1.1)) * (1 + 0.08 * tone),
        freckles=bool(tone < 0.35 and rng.random() < 0.25),
        earrings=bool(not short and rng.random() < 0.4),
        lashes=0.25 if short else float(rng.uniform(0.4, 1.0)),
        garment=str(rng.choice(GARMENTS)),
        cloth=cloth,
        accent=hsv(float(rng.random()), float(rng.uniform(0.1, 0.45)), float(rng.uniform(0.4, 0.85))),
        hair_seed=int(rng.integers(2**31)),
    )


@dataclass(frozen=True)
class Pose:
    """Place and direction of a face: `x`, `y` (centre of the eye line) and `unit` (half face width) in pixels.

    `tilt` and `yaw` are in radians. `light` is from -1 (light from the left) to 1 (from the right).
    """

    x: float
    y: float
    unit: float
    tilt: float
    yaw: float
    light: float

    def face_pixels(self, points: ArrayLike, relief: float = 0.0) -> Points:
        """Pixels of face coordinates: x right, y down, in half face widths from the centre of the eye line.

        `relief` is how far the feature sticks out of the head. Yaw moves it further by that much.
        """
        at: NDArray[np.float64] = np.atleast_2d(np.asarray(points, dtype=np.float64))
        depth = np.sqrt(np.clip(1.05 - at[:, 0] ** 2, 0, 1)) * 0.75 + relief
        across = at[:, 0] * np.cos(self.yaw) + depth * np.sin(self.yaw)
        return self._turned(across, at[:, 1])

    def head_pixels(self, points: ArrayLike) -> Points:
        """Pixels of head coordinates, for parts that do not turn with yaw (outline, hair)."""
        at: NDArray[np.float64] = np.atleast_2d(np.asarray(points, dtype=np.float64))
        return self._turned(at[:, 0] + 0.25 * np.sin(self.yaw), at[:, 1])

    def head_pixel(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of one point in head coordinates; see `head_pixels`."""
        right, down = self.head_pixels([(x, y)])[0].tolist()
        return right, down

    def face_pixel(self, x: float, y: float, relief: float = 0.0) -> tuple[float, float]:
        """Pixel of one point in face coordinates; see `face_pixels`."""
        right, down = self.face_pixels([(x, y)], relief)[0].tolist()
        return right, down

    def body_pixels(self, points: ArrayLike) -> Points:
        """Pixels of neck and shoulder coordinates. The body follows the head's tilt only a little."""
        at: NDArray[np.float64] = np.atleast_2d(np.asarray(points, dtype=np.float64))
        lean = np.clip(1.9 - at[:, 1], 0, 1.2) * np.sin(self.tilt) * 0.5
        lean += -1.1 * np.sin(self.tilt)
        return np.stack([self.x + self.unit * (at[:, 0] + lean), self.y + self.unit * at[:, 1]], axis=1)

    def _turned(self, across: NDArray[np.float64], down: NDArray[np.float64]) -> Points:
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        x = self.x + self.unit * (across * cos - down * sin)
        return np.stack([x, self.y + self.unit * (across * sin + down * cos)], axis=1)


def mirrored(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The right half of an outline, from top to bottom, followed by its mirror image."""
    left = [(-x, y) for x, y in reversed(points) if x != 0]
    return [*points, *left]
