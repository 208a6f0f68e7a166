"""Pictures of things, without people: a plate, a cup, flowers, a sleeping cat, a quote card, abstract shapes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raypipe.world.draw.canvas import Canvas, Colour, curve, darker, ellipse, gradient, hsv, mix, noise, rectangle

_QUOTES = (
    "be kind\nto yourself",
    "good things\ntake time",
    "collect moments\nnot things",
    "slow down\nbreathe",
    "today is\na good day",
    "stay curious",
    "less hurry\nmore sun",
    "make it\nhappen",
)


def _table_top(rng: np.random.Generator, size: tuple[int, int]) -> Canvas:
    """A table top seen from above: wood, stone or cloth."""
    kind = int(rng.integers(3))
    if kind == 0:
        tone = mix((186, 140, 96), (92, 62, 44), float(rng.random()))
    elif kind == 1:
        tone = hsv(float(rng.random()), 0.06, float(rng.uniform(0.5, 0.95)))
    else:
        tone = hsv(float(rng.random()), float(rng.uniform(0.2, 0.5)), float(rng.uniform(0.5, 0.9)))
    canvas = Canvas(gradient(size, (tone, darker(tone, 0.8)), vertical=bool(rng.random() < 0.5)))
    width, height = size
    if kind == 0:
        grain = noise(rng, (max(2, width // 12), height), 40, 2).resize(size)
        veil = grain.point([max(0, min(120, (level - 120) * 2)) for level in range(256)])
        canvas.image.paste(tuple(round(c) for c in darker(tone, 0.7)), (0, 0), veil)
        for x in np.linspace(0, width, int(rng.integers(3, 6)))[1:-1]:
            canvas.stroke([np.array([(x, 0), (x, height)])], darker(tone, 0.45), 2.0, 0.7)
    return canvas


def _dish(canvas: Canvas, x: float, y: float, radius: float, tone: Colour) -> None:
    canvas.fill(ellipse(x + radius * 0.06, y + radius * 0.1, radius, radius), (20, 14, 12), 0.5, radius * 0.07)
    outer = canvas.fill(ellipse(x, y, radius, radius), tone)
    canvas.fill(
        ellipse(x - radius * 0.2, y - radius * 0.25, radius, radius),
        mix(tone, (255, 255, 255), 0.6),
        0.6,
        radius * 0.1,
        outer,
    )
    canvas.fill(ellipse(x, y, radius * 0.76, radius * 0.76), darker(tone, 0.86))
    canvas.fill(
        ellipse(x + radius * 0.02, y + radius * 0.03, radius * 0.72, radius * 0.72), darker(tone, 0.95), blur=1.5
    )


def plate(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A bowl of food from above, with five ingredients in sectors, and chopsticks beside it."""
    canvas = _table_top(rng, size)
    short = min(size)
    x, y = size[0] * float(rng.uniform(0.35, 0.65)), size[1] * float(rng.uniform(0.35, 0.65))
    radius = short * float(rng.uniform(0.34, 0.46))
    lean = float(rng.uniform(-0.3, 0.3)) * radius
    sticks = [
        np.array([(x + radius * a, y - radius * 1.3), (x + radius * a + lean, y + radius * 1.3)]) for a in (1.12, 1.22)
    ]
    canvas.stroke(sticks, (120, 74, 48), radius * 0.05)
    _dish(canvas, x, y, radius, hsv(float(rng.random()), float(rng.uniform(0, 0.4)), float(rng.uniform(0.3, 0.97))))
    bowl = canvas.mask([ellipse(x, y, radius * 0.84, radius * 0.84)])
    start, hues = float(rng.random() * 6), rng.choice([0.01, 0.05, 0.1, 0.14, 0.24, 0.32, 0.38, 0.94], 5, replace=False)
    for sector, hue in enumerate(hues):
        turn = start + 2 * np.pi * sector / 5 + np.linspace(0, 2 * np.pi / 5, 9)
        wedge = np.concatenate([[(x, y)], np.stack([x + radius * np.cos(turn), y + radius * np.sin(turn)], axis=1)])
        area = canvas.mask([wedge]).within(bowl)
        tone = hsv(float(hue), float(rng.uniform(0.5, 0.75)), float(rng.uniform(0.55, 0.92)))
        canvas.paint(area, darker(tone, 0.8))
        grain, stretch = radius * float(rng.uniform(0.05, 0.13)), float(rng.uniform(0.4, 1.0))
        for depth in range(3):
            away, round_ = radius * 0.84 * np.sqrt(rng.random(14)), rng.uniform(turn[0], turn[-1], 14)
            bits = [
                ellipse(x + r * np.cos(a), y + r * np.sin(a), grain, grain * stretch, angle, 14)
                for r, a, angle in zip(away, round_, rng.random(14) * 3, strict=True)
            ]
            canvas.paint(
                canvas.mask([bit + np.array([1.5, 2.0]) for bit in bits]).within(area), darker(tone, 0.45), 0.6
            )
            canvas.paint(canvas.mask(bits).within(area), mix(tone, (255, 250, 236), 0.16 * depth))
    canvas.fill(ellipse(x, y, radius * 0.2, radius * 0.17), (250, 246, 238))
    canvas.fill(ellipse(x, y, radius * 0.1, radius * 0.1), (246, 180, 60), blur=1.0)
    return canvas.image


def cup(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A cup of coffee from above, with a leaf poured into the milk."""
    canvas = _table_top(rng, size)
    x, y = size[0] * float(rng.uniform(0.4, 0.6)), size[1] * float(rng.uniform(0.4, 0.6))
    radius = min(size) * float(rng.uniform(0.2, 0.28))
    tone = hsv(float(rng.random()), float(rng.uniform(0.0, 0.45)), float(rng.uniform(0.7, 0.97)))
    _dish(canvas, x, y, radius * 1.6, mix(tone, (255, 255, 255), 0.4))
    turn = float(rng.random() * 2 * np.pi)
    handle = ellipse(
        x + radius * 1.1 * np.cos(turn), y + radius * 1.1 * np.sin(turn), radius * 0.3, radius * 0.16, turn
    )
    canvas.fill(handle, darker(tone, 0.8))
    canvas.fill(ellipse(x + radius * 0.1, y + radius * 0.14, radius, radius), (20, 14, 12), 0.5, radius * 0.1)
    canvas.fill(ellipse(x, y, radius, radius), tone)
    coffee = canvas.fill(ellipse(x, y, radius * 0.87, radius * 0.87), (96, 56, 32))
    canvas.fill(ellipse(x, y, radius * 0.75, radius * 0.75), (176, 120, 74), 1.0, radius * 0.07, coffee)
    angle = float(rng.random() * 2 * np.pi)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    for step in np.linspace(-0.45, 0.5, 5):
        wide = radius * (0.52 - 0.3 * (step + 0.45))
        tip = np.array([x, y]) + along * radius * (step + 0.16)
        foot = np.array([x, y]) + along * radius * step
        canvas.stroke(
            [curve([foot + across * wide, tip, foot - across * wide], closed=False)],
            (246, 230, 204),
            radius * 0.09,
            0.95,
            1.0,
            coffee,
        )
    return canvas.image


def flowers(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A bouquet before a soft background."""
    back = hsv(float(rng.random()), float(rng.uniform(0.1, 0.45)), float(rng.uniform(0.45, 0.95)))
    canvas = Canvas(gradient(size, (mix(back, (255, 255, 255), 0.3), darker(back, 0.7))))
    short, hue = min(size), float(rng.random())
    for _ in range(30):
        x, y = rng.random() * size[0], size[1] * (0.3 + 0.7 * rng.random())
        leaf = ellipse(x, y, short * 0.11, short * 0.03, float(rng.random() * 3.1), 20)
        canvas.fill(leaf, hsv(float(rng.uniform(0.25, 0.4)), 0.5, float(rng.uniform(0.25, 0.55))))
    for _ in range(int(rng.integers(9, 15))):
        x, y = size[0] * float(rng.uniform(0.1, 0.9)), size[1] * float(rng.uniform(0.12, 0.85))
        radius = short * float(rng.uniform(0.06, 0.12))
        tone = hsv(hue + float(rng.normal(0, 0.05)), float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.75, 1.0)))
        petals, start = int(rng.integers(6, 9)), float(rng.random() * 6)
        for ring, share in ((1.0, 0.82), (0.62, 1.05)):
            for turn in np.linspace(0, 2 * np.pi, petals, endpoint=False) + start + ring:
                away = radius * 0.62 * ring
                petal = ellipse(
                    x + away * np.cos(turn),
                    y + away * np.sin(turn),
                    radius * 0.55 * ring,
                    radius * 0.34 * ring,
                    turn,
                    18,
                )
                shape = canvas.fill(petal, darker(tone, share))
                canvas.stroke([petal], darker(tone, 0.6), 1.0, 0.5, within=shape)
        canvas.fill(ellipse(x, y, radius * 0.2, radius * 0.2, points=14), (240, 200, 90))
    return canvas.image


def cat(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A cat asleep on a cushion, seen from the side."""
    canvas = _table_top(rng, size)
    short, x, y = min(size), size[0] * 0.5, size[1] * 0.56
    coats: tuple[Colour, ...] = ((60, 54, 54), (206, 140, 78), (150, 146, 144), (232, 222, 208), (120, 92, 70))
    coat = coats[int(rng.integers(len(coats)))]
    rug = hsv(float(rng.random()), float(rng.uniform(0.2, 0.6)), float(rng.uniform(0.5, 0.95)))
    canvas.fill(ellipse(x + 4, y + short * 0.1, short * 0.47, short * 0.36), (20, 16, 14), 0.5, 6)
    cushion = canvas.fill(ellipse(x, y, short * 0.46, short * 0.37), rug)
    canvas.fill(ellipse(x, y, short * 0.36, short * 0.27), darker(rug, 0.72), 0.8, short * 0.04, cushion)
    body = canvas.fill(ellipse(x, y - short * 0.02, short * 0.31, short * 0.23, 0.1), coat)
    canvas.fill(ellipse(x, y + short * 0.2, short * 0.3, short * 0.14), darker(coat, 0.45), 0.6, short * 0.05, body)
    canvas.fill(
        ellipse(x + short * 0.06, y - short * 0.14, short * 0.16, short * 0.06),
        mix(coat, (255, 244, 228), 0.5),
        0.6,
        short * 0.04,
        body,
    )
    bands = [
        curve(
            [
                (x + short * (0.02 + 0.07 * i), y - short * 0.24),
                (x + short * (0.05 + 0.08 * i), y - short * 0.12),
                (x + short * (0.03 + 0.07 * i), y - short * 0.03),
            ],
            closed=False,
        )
        for i in range(4)
    ]
    canvas.stroke(bands, darker(coat, 0.62), short * 0.022, 0.7, 1.5, body)
    tail = curve(
        [(x + short * 0.28, y + short * 0.04), (x + short * 0.2, y + short * 0.2), (x - short * 0.05, y + short * 0.2)],
        closed=False,
    )
    canvas.stroke([tail], darker(coat, 0.85), short * 0.07)
    hx, hy, r = x - short * 0.2, y + short * 0.03, short * 0.115
    for lean in (-1, 1):
        ear = np.array(
            [
                (hx + lean * r * 0.25, hy - r * 0.8),
                (hx + lean * r * 0.85, hy - r * 1.35),
                (hx + lean * r * 0.95, hy - r * 0.35),
            ]
        )
        canvas.fill(ear, darker(coat, 0.85))
    canvas.fill(ellipse(hx, hy, r * 1.08, r * 0.92), mix(coat, (255, 250, 240), 0.08))
    for lean in (-1, 1):
        lid = curve(
            [
                (hx + lean * r * 0.22, hy - r * 0.02),
                (hx + lean * r * 0.42, hy + r * 0.12),
                (hx + lean * r * 0.64, hy - r * 0.02),
            ],
            closed=False,
        )
        canvas.stroke([lid], (34, 26, 26), max(1.2, r * 0.06))
    canvas.fill(ellipse(hx, hy + r * 0.3, r * 0.11, r * 0.08, points=12), (206, 130, 126))
    return canvas.image


def quote(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A few words on a coloured card."""
    hue = float(rng.random())
    first, second = hsv(hue, float(rng.uniform(0.1, 0.6)), float(rng.uniform(0.3, 0.95))), hsv(hue + 0.12, 0.4, 0.8)
    canvas = Canvas(gradient(size, (first, second), vertical=bool(rng.random() < 0.5)))
    width, height = size
    ink: Colour = (255, 255, 255) if sum(first) < 420 else (40, 36, 44)
    for _ in range(int(rng.integers(0, 3))):
        x, y, r = rng.random() * width, rng.random() * height, rng.uniform(0.1, 0.3) * width
        canvas.fill(ellipse(x, y, r, r), mix(second, (255, 255, 255), 0.5), 0.35)
    margin = min(size) * 0.06
    frame = rectangle(margin, margin, width - margin, height - margin)
    canvas.stroke([np.concatenate([frame, frame[:1]])], ink, 2.0, 0.6)
    words = _QUOTES[int(rng.integers(len(_QUOTES)))]
    longest = max(len(line) for line in words.splitlines())
    font = ImageFont.load_default(size=round(min(width * 1.35 / longest, height * 0.16)))
    pen = ImageDraw.Draw(canvas.image)
    pen.multiline_text(
        (width / 2, height / 2), words, fill=tuple(round(c) for c in ink), font=font, anchor="mm", align="center"
    )
    return canvas.image


def shapes(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Overlapping rounded shapes in a few related colours."""
    hue, spread = float(rng.random()), float(rng.uniform(0.05, 0.4))
    canvas = Canvas(gradient(size, (hsv(hue, 0.3, 0.9), hsv(hue + spread, 0.4, 0.6))))
    short = min(size)
    for _ in range(int(rng.integers(6, 11))):
        x, y, r = rng.random() * size[0], rng.random() * size[1], rng.uniform(0.12, 0.38) * short
        turn = np.linspace(0, 2 * np.pi, 7, endpoint=False)
        away = r * rng.uniform(0.7, 1.25, 7)
        knots = np.stack([x + away * np.cos(turn), y + away * np.sin(turn)], axis=1)
        tone = hsv(hue + spread * float(rng.normal()), float(rng.uniform(0.2, 0.75)), float(rng.uniform(0.35, 1.0)))
        canvas.fill(curve(knots) + np.array([3, 5]), darker(tone, 0.3), 0.4, 4)
        area = canvas.mask([curve(knots)])
        canvas.paint(area, gradient(area.image.size, (mix(tone, (255, 255, 255), 0.25), darker(tone, 0.85))), 0.95)
    return canvas.image


OBJECT_SCENES = (plate, cup, flowers, cat, quote, shapes)
