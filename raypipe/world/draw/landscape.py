"""Places without people: mountains, sea, city, forest, room. Used as whole pictures and, blurred, behind portraits."""

from __future__ import annotations

import numpy as np
from PIL import Image

from raypipe.world.draw.canvas import (
    Canvas,
    Colour,
    Points,
    curve,
    darker,
    ellipse,
    gradient,
    hsv,
    mix,
    noise,
    rectangle,
)

_SKIES: tuple[tuple[Colour, ...], ...] = (
    ((92, 150, 212), (158, 198, 232), (226, 236, 240)),
    ((58, 84, 150), (196, 132, 140), (250, 194, 136)),
    ((34, 40, 88), (110, 84, 140), (238, 150, 126)),
    ((138, 160, 182), (186, 198, 208), (222, 222, 218)),
    ((240, 176, 140), (246, 208, 168), (252, 236, 206)),
    ((70, 140, 170), (140, 196, 196), (238, 228, 196)),
)


def _sky(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Canvas, tuple[Colour, ...]]:
    tones = _SKIES[int(rng.integers(len(_SKIES)))]
    canvas = Canvas(gradient(size, tones))
    width, height = size
    clouds = noise(rng, (width // 8 + 1, height // 3 + 1), 9, 3)
    veil = clouds.point([max(0, min(200, (level - 122) * 3)) for level in range(256)]).resize(size)
    canvas.image.paste(tuple(round(c) for c in mix(tones[2], (255, 255, 255), 0.5)), (0, 0), veil)
    return canvas, tones


def _sun(rng: np.random.Generator, canvas: Canvas, horizon: float) -> float:
    x, radius = float(rng.uniform(0.15, 0.85)) * canvas.width, 0.05 * canvas.width
    y = float(rng.uniform(0.3, 0.9)) * horizon
    canvas.fill(ellipse(x, y, radius * 3.2, radius * 3.2), (255, 236, 200), 0.5, radius * 1.2)
    canvas.fill(ellipse(x, y, radius, radius), (255, 248, 230), 0.95, 1.0)
    return x


def _ridge(rng: np.random.Generator, width: int, base: float, rise: float, floor: float) -> Points:
    count = 64
    at = np.linspace(-0.05, 1.05, count)
    line = np.zeros(count)
    for octave in range(4):
        knots = rng.normal(0, 0.5**octave, 4 * 2**octave)
        line += np.interp(at, np.linspace(-0.05, 1.05, len(knots)), knots)
    top = base - rise * (0.5 + 0.35 * line)
    line_points = np.stack([at * width, top], axis=1)
    return np.concatenate([line_points, [[1.05 * width, floor], [-0.05 * width, floor]]])


def mountains(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Ridges in haze, with trees in front."""
    canvas, tones = _sky(rng, size)
    width, height = size
    _sun(rng, canvas, height * 0.5)
    near = hsv(float(rng.uniform(0.25, 0.65)), 0.45, 0.26)
    for layer in range(4):
        share = (layer + 1) / 4
        ridge = _ridge(rng, width, height * (0.5 + 0.13 * layer), height * (0.3 - 0.05 * layer), height + 5)
        area = canvas.mask([ridge])
        canvas.paint(area, mix(tones[2], near, share))
        slope = gradient(area.image.size, (mix(tones[2], near, share), mix(tones[2], near, max(0.0, share - 0.3))))
        canvas.paint(area, slope)
    trees = []
    for x in rng.uniform(0, 1, 40) * width:
        tall, foot = float(rng.uniform(0.06, 0.16)) * height, height * float(rng.uniform(0.97, 1.05))
        trees.append(np.array([(x, foot - tall), (x + tall * 0.2, foot), (x - tall * 0.2, foot)]))
    canvas.paint(canvas.mask(trees), darker(near, 0.55))
    return canvas.image


def sea(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A beach with surf, and the sun's path on the water."""
    canvas, tones = _sky(rng, size)
    width, height = size
    horizon = height * float(rng.uniform(0.38, 0.55))
    sun = _sun(rng, canvas, horizon)
    deep = mix(hsv(float(rng.uniform(0.48, 0.6)), 0.6, 0.5), tones[0], 0.35)
    water = canvas.mask([rectangle(0, horizon, width, height)])
    canvas.paint(water, gradient(water.image.size, (mix(deep, tones[2], 0.4), deep, mix(deep, (170, 220, 214), 0.5))))
    ripples = []
    for depth in rng.random(90) ** 1.5:
        y, x = horizon + 2 + depth * (height - horizon), float(rng.random()) * width
        half = width * (0.01 + 0.06 * depth)
        ripples.append(np.array([(x - half, y), (x + half, y)]))
    canvas.stroke(ripples, mix(deep, (255, 255, 255), 0.5), 1.2, 0.5)
    for y in np.linspace(horizon + 3, height * 0.85, 24):
        half = width * float(rng.uniform(0.01, 0.06))
        canvas.stroke([np.array([(sun - half, y), (sun + half, y)])], (255, 246, 220), 1.6, 0.55)
    shore = height * float(rng.uniform(0.75, 0.88))
    knots = [(x * width, shore + float(rng.normal(0, 0.02)) * height) for x in np.linspace(-0.1, 1.1, 6)]
    line = curve(knots, closed=False)
    beach = np.concatenate([line, [[width * 1.1, height + 5], [-width * 0.1, height + 5]]])
    sand = canvas.mask([beach])
    canvas.paint(sand, gradient(sand.image.size, ((206, 178, 138), (236, 214, 176))))
    canvas.stroke([line], (255, 255, 255), 0.02 * height, 0.85, 1.2)
    return canvas.image


def city(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A skyline at dusk with lit windows."""
    canvas, tones = _sky(rng, size)
    width, height = size
    for layer in range(3):
        tone = mix(tones[2], hsv(float(rng.uniform(0.55, 0.75)), 0.35, 0.2), 0.4 + 0.28 * layer)
        x = -10.0
        while x < width:
            wide = width * float(rng.uniform(0.07, 0.16))
            top = height * (float(rng.uniform(0.25, 0.6)) + 0.12 * layer)
            block = rectangle(x, top, x + wide, height + 2)
            canvas.fill(block, darker(tone, float(rng.uniform(0.9, 1.1))))
            if layer:
                step = max(4.0, width * 0.02)
                lit = [
                    rectangle(a, b, a + step * 0.45, b + step * 0.55)
                    for a in np.arange(x + step * 0.4, x + wide - step * 0.5, step)
                    for b in np.arange(top + step * 0.5, height, step * 1.2)
                    if rng.random() < 0.35
                ]
                if lit:
                    canvas.paint(canvas.mask(lit), (255, 220, 150), 0.75)
            x += wide * float(rng.uniform(0.9, 1.2))
    return canvas.image


def forest(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Trunks and leaves with light between them."""
    width, height = size
    hue = float(rng.choice([rng.uniform(0.2, 0.4), rng.uniform(0.04, 0.13)]))
    canvas = Canvas(gradient(size, (hsv(hue, 0.35, 0.85), hsv(hue, 0.55, 0.5), hsv(hue + 0.03, 0.6, 0.25))))
    leaves = noise(rng, size, 18, 3).point([max(0, min(255, (level - 110) * 6)) for level in range(256)])
    canvas.image.paste(tuple(round(c) for c in hsv(hue, 0.6, 0.38)), (0, 0), leaves)
    for layer in range(2):
        for x in rng.random(5 + 2 * layer) * width:
            wide = width * float(rng.uniform(0.012, 0.03)) * (1 + layer)
            lean = float(rng.normal(0, 0.03)) * width
            trunk = np.array(
                [(x + lean, -5), (x + lean + wide, -5), (x + 1.5 * wide, height + 5), (x - wide / 2, height + 5)]
            )
            canvas.fill(trunk, mix((70, 54, 44), hsv(hue, 0.3, 0.6), 0.5 - 0.4 * layer))
    spots = [
        ellipse(x * width, y * height, r, r, points=16)
        for x, y, r in zip(rng.random(22), rng.random(22) ** 1.5, rng.uniform(0.01, 0.035, 22) * width, strict=True)
    ]
    canvas.paint(canvas.mask(spots, 4.0), (255, 250, 214), 0.7)
    return canvas.image


def room(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A wall with a picture or a window, a shelf with books and a plant."""
    width, height = size
    wall = hsv(float(rng.random()), float(rng.uniform(0.03, 0.35)), float(rng.uniform(0.6, 0.95)))
    canvas = Canvas(gradient(size, (wall, darker(wall, 0.82)), vertical=bool(rng.random() < 0.5)))
    x, y = float(rng.uniform(0.02, 0.6)) * width, float(rng.uniform(0.05, 0.2)) * height
    wide, tall = width * float(rng.uniform(0.25, 0.38)), height * float(rng.uniform(0.25, 0.4))
    canvas.fill(rectangle(x + 5, y + 7, x + wide + 5, y + tall + 7), darker(wall, 0.4), 0.5, 5)
    canvas.fill(rectangle(x, y, x + wide, y + tall), mix(wall, (255, 255, 255), 0.75))
    view = canvas.mask([rectangle(x + 6, y + 6, x + wide - 6, y + tall - 6)])
    inside = hsv(float(rng.random()), 0.28, 0.8)
    canvas.paint(view, gradient(view.image.size, (inside, mix(inside, (255, 246, 230), 0.7))))
    hill = _ridge(rng, width, y + tall * 0.8, tall * 0.25, y + tall)
    canvas.paint(canvas.mask([hill]).within(view), darker(inside, 0.55))
    shelf = height * float(rng.uniform(0.6, 0.75))
    wood = mix((150, 106, 70), (90, 60, 42), float(rng.random()))
    at = float(rng.uniform(-0.1, 0.1)) * width
    while at < width:
        thick, tall = width * float(rng.uniform(0.02, 0.045)), height * float(rng.uniform(0.1, 0.17))
        if rng.random() < 0.75:
            book = hsv(float(rng.random()), float(rng.uniform(0.2, 0.6)), float(rng.uniform(0.35, 0.85)))
            canvas.fill(rectangle(at, shelf - tall, at + thick, shelf), book)
        at += thick * 1.06
    canvas.fill(rectangle(0, shelf, width, shelf + 0.03 * height), wood)
    canvas.fill(rectangle(0, shelf + 0.03 * height, width, shelf + 0.07 * height), darker(wall, 0.5), 0.5, 4)
    return canvas.image


PLACE_SCENES = (mountains, sea, city, forest, room)
