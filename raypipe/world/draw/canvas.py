"""Drawing tools for all generated pictures: smooth outlines, anti-aliased soft masks, and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[float, float, float]
Points = NDArray[np.float64]


@dataclass(frozen=True)
class Mask:
    """Coverage of an area, 0 to 255, as an `L` image. Its top-left pixel is at (`left`, `top`) of the canvas."""

    left: int
    top: int
    image: Image.Image

    def _aligned(self, other: Mask) -> Image.Image:
        left, top = self.left - other.left, self.top - other.top
        return other.image.crop((left, top, left + self.image.width, top + self.image.height))

    def within(self, other: Mask) -> Mask:
        """The part of this mask that lies inside `other`."""
        return Mask(self.left, self.top, ImageChops.multiply(self.image, self._aligned(other)))

    def without(self, other: Mask) -> Mask:
        """The part of this mask that lies outside `other`."""
        outside = ImageChops.invert(self._aligned(other))
        return Mask(self.left, self.top, ImageChops.multiply(self.image, outside))


class Canvas:
    """An RGB picture to paint shapes on. Coordinates are pixels of the final picture."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.width, self.height = image.size

    def mask(self, shapes: Sequence[Points], blur: float = 0.0, level: float = 1.0) -> Mask:
        """The mask of closed `shapes`, each (n, 2) points. `level` is the coverage, 0 to 1; `blur` is in pixels."""
        corners = np.concatenate(shapes)
        margin = 2.5 * blur + 1
        left, top = np.floor(np.maximum(corners.min(axis=0) - margin, 0)).astype(int).tolist()
        limit = (self.width, self.height)
        right, bottom = np.ceil(np.minimum(corners.max(axis=0) + margin, limit)).astype(int).tolist()
        if right <= left or bottom <= top:
            return Mask(0, 0, Image.new("L", (1, 1)))
        width, height = right - left, bottom - top
        scale = _supersampling(width * height, blur)
        image = Image.new("L", (max(1, round(width * scale)), max(1, round(height * scale))))
        pen, fill = ImageDraw.Draw(image), round(255 * level)
        for shape in shapes:
            pen.polygon(((shape - (left, top)) * scale).ravel().tolist(), fill=fill)
        if scale > 1:
            image = image.reduce(int(scale))
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur * min(scale, 1.0)))
        if scale < 1:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return Mask(left, top, image)

    def paint(self, mask: Mask, colour: Colour | Image.Image, opacity: float = 1.0) -> None:
        """Paints `colour`, or an image of the mask's size, on the area that `mask` covers."""
        image = mask.image
        if opacity < 1:
            image = ImageChops.multiply(image, Image.new("L", image.size, round(255 * opacity)))
        if isinstance(colour, Image.Image):
            self.image.paste(colour, (mask.left, mask.top), image)
            return
        box = (mask.left, mask.top, mask.left + image.width, mask.top + image.height)
        self.image.paste(as_rgb(colour), box, image)

    def fill(
        self,
        shape: Points,
        colour: Colour,
        opacity: float = 1.0,
        blur: float = 0.0,
        within: Mask | None = None,
    ) -> Mask:
        """Paints one closed shape, only inside `within` if given. Returns the mask of the painted area."""
        mask = self.mask([shape], blur, min(opacity, 1.0))
        if within is not None:
            mask = mask.within(within)
        self.paint(mask, colour)
        return mask

    def stroke(
        self,
        lines: Sequence[Points],
        colour: Colour,
        width: float,
        opacity: float = 1.0,
        blur: float = 0.0,
        within: Mask | None = None,
        tapered: bool = False,
    ) -> None:
        """Paints open lines, `width` pixels wide. `tapered` lines have pointed ends."""
        mask = self.mask(line_outlines(lines, width, tapered), blur, opacity)
        if within is not None:
            mask = mask.within(within)
        self.paint(mask, colour)


def _supersampling(area: int, blur: float) -> float:
    # A blurred edge needs no supersampling, and a wide blur can be drawn smaller. Most of the speed comes from this.
    if blur >= 10:
        return 0.25
    if blur >= 4:
        return 0.5
    if blur >= 1.5:
        return 1.0
    return 4.0 if area < 90 * 90 else 2.0


def as_rgb(colour: Colour) -> tuple[int, int, int]:
    """The colour as whole numbers, clipped to 0..255."""
    red, green, blue = (min(255, max(0, round(part))) for part in colour)
    return red, green, blue


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """`first` with `share` (0 to 1) of `second`."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Colour, factor: float) -> Colour:
    """The colour times `factor`; above 1 it becomes lighter."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB 0..255 of a hue (in turns, any real number), saturation and value (0 to 1)."""
    wheel = np.clip(np.abs((hue * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
    red, green, blue = (255 * value * (1 - saturation * (1 - wheel))).tolist()
    return red, green, blue


def gradient(size: tuple[int, int], stops: Sequence[Colour], vertical: bool = True) -> Image.Image:
    """An RGB image of `size` that runs evenly through `stops`, from the top (or from the left if not `vertical`)."""
    rows = np.clip(np.array(stops, dtype=np.float64), 0, 255).round().astype(np.uint8)
    count = len(stops)
    if vertical:
        strip = Image.fromarray(rows[:, None, :].repeat(2, axis=1))
        return strip.resize(size, Image.Resampling.BILINEAR, box=(0.5, 0.5, 1.5, count - 0.5))
    strip = Image.fromarray(rows[None, :, :].repeat(2, axis=0))
    return strip.resize(size, Image.Resampling.BILINEAR, box=(0.5, 0.5, count - 0.5, 1.5))


def noise(rng: np.random.Generator, size: tuple[int, int], cells: int, octaves: int = 2) -> Image.Image:
    """Smooth value noise as an `L` image of `size`. The first octave has `cells` bumps along the longer side."""
    total = np.zeros((size[1], size[0]), dtype=np.float32)
    for octave in range(octaves):
        step = max(size) / (cells * 2**octave)
        grid = (rng.random((int(size[1] / step) + 2, int(size[0] / step) + 2)) * 255).astype(np.uint8)
        layer = Image.fromarray(grid).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=np.float32) * 0.5**octave
    total /= sum(0.5**octave for octave in range(octaves))
    return Image.fromarray(total.astype(np.uint8))


@lru_cache(maxsize=16)
def _circle(points: int) -> tuple[Points, Points]:
    turn = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.cos(turn), np.sin(turn)


def ellipse(x: float, y: float, rx: float, ry: float, angle: float = 0.0, points: int = 40) -> Points:
    """The outline of an ellipse, (points, 2). `angle` is in radians, clockwise on the picture."""
    cosines, sines = _circle(points)
    along, across = rx * cosines, ry * sines
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], axis=1)


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """The four corners of an upright rectangle."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


@lru_cache(maxsize=16)
def _spline_weights(steps: int) -> NDArray[np.float64]:
    t = np.linspace(0, 1, steps, endpoint=False)
    columns = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, t**3 - t**2]
    return 0.5 * np.stack(columns, axis=1)


def curve(knots: ArrayLike, closed: bool = True, steps: int = 8) -> Points:
    """A Catmull-Rom curve through `knots` (n, 2), with `steps` points per span."""
    at = np.asarray(knots, dtype=np.float64)
    padded = np.concatenate([at[-1:], at, at[:2]] if closed else [at[:1], at, at[-1:]])
    spans = len(padded) - 3
    index = np.arange(spans)[:, None] + np.arange(4)
    path = (_spline_weights(steps) @ padded[index]).reshape(-1, 2)
    return path if closed else np.concatenate([path, at[-1:]])


def line_outlines(lines: Sequence[Points], width: float, tapered: bool = False) -> list[Points]:
    """The outlines of lines (n, 2) that are `width` wide. `tapered` lines have pointed ends."""
    if len({len(line) for line in lines}) > 1:
        return [outline for line in lines for outline in line_outlines([line], width, tapered)]
    at = np.stack(lines)
    along = np.gradient(at, axis=1)
    along /= np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-9)[..., None]
    half = np.full(at.shape[1], width / 2)
    if tapered:
        half *= np.sin(np.linspace(0.08, np.pi - 0.08, at.shape[1])) ** 0.7
    aside = np.stack([-along[..., 1], along[..., 0]], axis=-1) * half[:, None]
    return list(np.concatenate([at + aside, (at - aside)[:, ::-1]], axis=1))
