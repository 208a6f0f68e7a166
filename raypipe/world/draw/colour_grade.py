"""The planted look as a colour grade: what the paper saw in its best and worst pictures (section 5.3).

A high look is soft, warm light. A low look is washed-out or garish colour. A look of 0 does not change the picture.
The grade grows continuously in both directions. It is clipped at ±2.5, so that no face disappears.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

LOOK_LIMIT = 2.5
_LUMA = np.array([0.299, 0.587, 0.114])
# Only cold casts, because a warm one would look like a high look.
_GARISH_CASTS = ((0.78, 1.1, 1.08), (1.0, 0.8, 1.25), (0.8, 1.18, 0.88), (0.82, 0.92, 1.28))
_WARM_GAINS = np.array([1.08, 1.01, 0.76])
_WARM_LIFT = np.array([0.10, 0.07, 0.03])
_GLOW = (0.30, 0.22, 0.11)
_VEIL = np.array([0.72, 0.78, 0.86])


def apply_look(image: Image.Image, look: float, rng: np.random.Generator) -> Image.Image:
    """`image` (RGB) graded by `look`. How far `rng` advances does not depend on `look`."""
    washed_out = rng.random() < 0.5
    cast = _GARISH_CASTS[int(rng.integers(len(_GARISH_CASTS)))]
    strength = float(np.clip(look, -LOOK_LIMIT, LOOK_LIMIT)) / LOOK_LIMIT
    if strength > 0:
        return _soft_and_warm(image, strength)
    if strength < 0:
        return _washed_out(image, -strength) if washed_out else _garish(image, -strength, np.array(cast))
    return image


def _soft_and_warm(image: Image.Image, strength: float) -> Image.Image:
    """Adds a golden tint, gentle contrast, a glow around the bright parts and a light vignette."""
    small = image.reduce(4).filter(ImageFilter.GaussianBlur(max(image.size) / 130))
    levels = (np.arange(256) / 255) ** 2 * 255 * strength
    glow = small.point([round(level * share) for share in _GLOW for level in levels.tolist()])
    gains = 0.84 * _WARM_GAINS * strength + (1 - strength)
    image = _linear(image, np.diag(gains), _WARM_LIFT * strength)
    image = ImageChops.add(image, glow.resize(image.size, Image.Resampling.BILINEAR))
    return ImageChops.multiply(image, _vignette(image.size, round(strength * 50)))


def _washed_out(image: Image.Image, strength: float) -> Image.Image:
    """Raises the blacks and lowers saturation and contrast, with a slight blue tint."""
    fade = 0.42 * strength
    return _linear(image, _saturation(1 - 0.62 * strength) * (1 - fade), _VEIL * fade)


def _garish(image: Image.Image, strength: float, cast: NDArray[np.float64]) -> Image.Image:
    """Adds too much saturation, hard contrast and a harsh cold cast."""
    tinted = np.diag(1 + (cast - 1) * strength) @ _saturation(1 + 0.75 * strength)
    contrast = 1 + 0.3 * strength
    return _linear(image, contrast * tinted, np.full(3, 0.5 * (1 - contrast)))


def _saturation(factor: float) -> NDArray[np.float64]:
    """The 3×3 matrix that multiplies a colour's distance from its luma by `factor`."""
    return factor * np.eye(3) + (1 - factor) * _LUMA[None, :]


def _linear(image: Image.Image, matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> Image.Image:
    """`matrix` @ colour + `offset` at each pixel, with colours from 0 to 1."""
    rows = np.concatenate([matrix, 255 * offset[:, None]], axis=1)
    return image.convert("RGB", tuple(rows.ravel().tolist()))


@lru_cache(maxsize=128)
def _vignette(size: tuple[int, int], step: int) -> Image.Image:
    """An image that darkens the corners, by up to a quarter at step 50. `step` is whole, so few images are cached."""
    axis = np.linspace(-1, 1, 33)
    corner = np.clip((axis[None, :] ** 2 + axis[:, None] ** 2) / 2 - 0.15, 0, 1)
    light = (255 * (1 - 0.3 * step / 50 * corner)).round().astype(np.uint8)
    return Image.fromarray(light).resize(size, Image.Resampling.BICUBIC).convert("RGB")
