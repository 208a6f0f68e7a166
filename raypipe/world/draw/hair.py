"""Hair and hijab: the part behind the head, and the part over the forehead."""

from __future__ import annotations

import numpy as np

from raypipe.world.draw.canvas import Canvas, Colour, Mask, Points, curve, darker, ellipse, line_outlines, mix
from raypipe.world.draw.person import PersonTraits, Pose, mirrored

_LONG = {"long": 3.6, "wavy": 3.2, "bob": 1.7, "fringe": 2.4}
# The hairline from the left temple over the forehead to the right temple, by style.
_HAIRLINES: dict[str, list[tuple[float, float]]] = {
    "short": [
        (-0.97, 0.16),
        (-0.94, -0.2),
        (-0.9, -0.62),
        (-0.5, -0.98),
        (0.1, -1.06),
        (0.6, -0.95),
        (0.9, -0.62),
        (0.94, -0.2),
        (0.97, 0.16),
    ],
    "swept": [
        (-0.97, 0.16),
        (-0.94, -0.2),
        (-0.88, -0.7),
        (-0.6, -0.92),
        (-0.1, -0.84),
        (0.45, -1.08),
        (0.88, -0.7),
        (0.94, -0.2),
        (0.97, 0.16),
    ],
    "curls": [(-0.97, -0.1), (-0.88, -0.66), (-0.5, -0.86), (0.0, -0.9), (0.5, -0.86), (0.88, -0.66), (0.97, -0.1)],
    "buzz": [(-0.97, 0.0), (-0.88, -0.66), (-0.6, -1.0), (0.0, -1.06), (0.6, -1.0), (0.88, -0.66), (0.97, 0.0)],
    "bob": [
        (-1.0, 0.9),
        (-0.93, 0.0),
        (-0.72, -0.72),
        (-0.3, -1.18),
        (0.3, -0.96),
        (0.78, -0.62),
        (0.94, 0.0),
        (1.0, 0.9),
    ],
    "long": [(-1.02, 1.6), (-0.92, 0.2), (-0.72, -0.66), (0.0, -1.22), (0.72, -0.66), (0.92, 0.2), (1.02, 1.6)],
    "wavy": [
        (-1.0, 1.3),
        (-0.9, 0.2),
        (-0.78, -0.6),
        (-0.3, -0.94),
        (0.36, -1.2),
        (0.8, -0.6),
        (0.92, 0.2),
        (1.02, 1.3),
    ],
    "bun": [(-0.98, 0.05), (-0.9, -0.58), (-0.52, -1.0), (0.0, -1.08), (0.52, -1.0), (0.9, -0.58), (0.98, 0.05)],
    "fringe": [
        (-0.98, 0.8),
        (-0.9, -0.1),
        (-0.8, -0.56),
        (-0.3, -0.64),
        (0.3, -0.64),
        (0.8, -0.56),
        (0.9, -0.1),
        (0.98, 0.8),
    ],
    "afro": [(-1.0, -0.05), (-0.88, -0.62), (-0.5, -0.92), (0.0, -0.98), (0.5, -0.92), (0.88, -0.62), (1.0, -0.05)],
}
_VOLUME = {
    "short": 0.12,
    "swept": 0.2,
    "buzz": 0.05,
    "bob": 0.16,
    "long": 0.13,
    "wavy": 0.2,
    "bun": 0.08,
    "fringe": 0.14,
}


def paint_back(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    """Paints the hair, or the hijab, that the head and the shoulders partly hide."""
    u, dark = pose.unit, darker(person.hair, 0.62)
    if person.style in _LONG:
        end, volume = _LONG[person.style], _VOLUME[person.style]
        out = 1.12 + volume
        outline = mirrored(
            [
                (0, -1.7),
                (0.7, -1.5),
                (out, -0.7),
                (out + 0.05, 0.4),
                (out + 0.12, end * 0.6),
                (out, end),
                (0.5, end + 0.1),
            ]
        )
        area = canvas.fill(curve(pose.head_pixels(outline)), dark, 1.0, 0.02 * u)
        rng = np.random.default_rng(person.hair_seed)
        columns = np.concatenate([np.linspace(-1.3, -0.8, 9), np.linspace(0.8, 1.3, 9)])
        lines = [
            curve(pose.head_pixels([(x, -0.4), (x * 1.04, end * 0.4), (x, end * low)]), closed=False)
            for x, low in zip(columns, rng.uniform(0.75, 0.97, len(columns)), strict=True)
        ]
        canvas.stroke(lines, darker(person.hair, 0.95), 0.045 * u, 0.5, 0.015 * u, area, tapered=True)
    elif person.style == "bun":
        x, y = pose.head_pixel(0.05, -1.85)
        knot = canvas.fill(ellipse(x, y, 0.5 * u, 0.45 * u), person.hair)
        canvas.fill(ellipse(x, y + 0.2 * u, 0.5 * u, 0.3 * u), dark, 0.7, 0.12 * u, knot)
        canvas.fill(ellipse(x, y - 0.15 * u, 0.28 * u, 0.1 * u), _gloss(person), 0.5, 0.07 * u, knot)
    elif person.style == "afro":
        canvas.paint(canvas.mask(_blobs(person, pose, 1.42, -0.55, 0.26, 46)), dark)
        canvas.paint(canvas.mask(_blobs(person, pose, 1.15, -0.55, 0.3, 30)), dark)
    elif person.style == "hijab":
        cloth = _scarf(person)
        outline = mirrored(
            [(0, -1.82), (0.75, -1.62), (1.18, -0.9), (1.28, 0.1), (1.22, 1.0), (1.5, 2.2), (1.9, 2.9), (0.6, 3.6)]
        )
        canvas.fill(curve(pose.head_pixels(outline)), darker(cloth, 0.7))


def paint_front(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask) -> None:
    """Paints the hair, or the hijab, that frames the face."""
    if person.style == "hijab":
        _hijab(canvas, person, pose)
    elif person.style in ("curls", "afro"):
        _curls(canvas, person, pose)
    elif person.style == "bald":
        return
    else:
        _cap_of_hair(canvas, person, pose, head)


def _gloss(person: PersonTraits) -> Colour:
    return mix(person.hair, (255, 232, 206), 0.4)


def _outer(person: PersonTraits) -> list[tuple[float, float]]:
    """The outside of the hair from the right temple over the top to the left temple."""
    volume = _VOLUME[person.style]
    line = _HAIRLINES[person.style]
    side = 1.04 + volume
    end = line[-1][1]
    tip = line[-1][0] + 0.03  # locks and sideburns end in a point
    right = [(tip, end), (side, -0.45), (0.9 + volume * 0.8, -1.1 - volume * 0.5), (0.5, -1.48 - volume * 0.8)]
    return [*right, (0, -1.58 - volume), *[(-x, y) for x, y in reversed(right)]]


def _cap_of_hair(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask) -> None:
    u, style = pose.unit, person.style
    outer, line = _outer(person), _HAIRLINES[style]
    shape = np.concatenate([curve(pose.head_pixels(outer), closed=False), curve(pose.head_pixels(line), closed=False)])
    cast = canvas.mask(
        line_outlines([curve(pose.head_pixels([(x * 0.98, y + 0.1) for x, y in line]), closed=False)], 0.14 * u),
        0.05 * u,
    )
    canvas.paint(cast.within(head), (60, 30, 26), 0.45)
    if style == "buzz":
        canvas.fill(shape, darker(person.hair, 0.85), 0.6, 0.06 * u, head)
        return
    area = canvas.fill(shape, darker(person.hair, 0.85), blur=0.012 * u)
    strands = _strands(person, pose, np.array(outer), np.array(line))
    canvas.stroke(strands[0::3], darker(person.hair, 0.45), 0.04 * u, 0.55, 0.01 * u, area, tapered=True)
    canvas.stroke(strands[1::3], darker(person.hair, 1.3), 0.035 * u, 0.5, 0.01 * u, area, tapered=True)
    canvas.stroke(strands[2::3], _gloss(person), 0.025 * u, 0.35, 0.008 * u, area, tapered=True)
    x, y = pose.head_pixel(0.4 * pose.light, -1.3)
    canvas.fill(ellipse(x, y, 0.5 * u, 0.13 * u, pose.tilt + 0.3 * pose.light), _gloss(person), 0.5, 0.09 * u, area)


def _strands(person: PersonTraits, pose: Pose, outer: Points, line: Points, count: int = 54) -> list[Points]:
    """Short lines along the flow of the hair, between its outside and the hairline."""
    rng = np.random.default_rng(person.hair_seed)
    outside, inside = curve(outer[::-1], closed=False, steps=10), curve(line, closed=False, steps=10)
    start, run = rng.uniform(0, 0.75, (count, 1)), rng.uniform(0.12, 0.3, (count, 1))
    along = np.clip(start + run * np.linspace(0, 1, 10), 0, 1)
    share = rng.uniform(0.03, 0.97, (count, 1, 1))
    far, near = outside[(along * (len(outside) - 1)).astype(int)], inside[(along * (len(inside) - 1)).astype(int)]
    flow = far * (1 - share) + near * share
    return list(pose.head_pixels(flow.reshape(-1, 2)).reshape(count, 10, 2))


def _blobs(person: PersonTraits, pose: Pose, radius: float, y: float, size: float, count: int) -> list[Points]:
    rng = np.random.default_rng(person.hair_seed)
    turn = np.linspace(-np.pi * 1.12, np.pi * 0.12, count)
    at = np.stack([radius * np.cos(turn), y + radius * np.sin(turn) * 0.95], axis=1)
    places = pose.head_pixels(at + rng.normal(0, 0.03, at.shape))
    sizes = size * rng.uniform(0.8, 1.2, count) * pose.unit
    return [ellipse(px, py, r, r, points=16) for (px, py), r in zip(places, sizes, strict=True)] + [
        pose.head_pixels(at)
    ]


def _curls(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    u, volume = pose.unit, 0.42 if person.style == "afro" else 0.2
    rng = np.random.default_rng(person.hair_seed + 1)
    line = curve(_HAIRLINES[person.style], closed=False, steps=6)
    top = np.array(
        [(0.98 * np.cos(t), -0.55 + (1.05 + volume) * np.sin(t)) for t in np.linspace(0.05, np.pi - 0.05, 20)]
    )
    top[:, 1] = -1.1 - top[:, 1]
    top[:, 0] *= 1.06 + volume * 0.8
    shape = np.concatenate([pose.head_pixels(line), pose.head_pixels(top)])
    places = np.concatenate([line[::2] - np.array([0, 0.1]), top])
    rounds = [
        ellipse(x, y, r * u, r * u, points=14)
        for (x, y), r in zip(pose.head_pixels(places), rng.uniform(0.1, 0.2, len(places)), strict=True)
    ]
    area = canvas.mask([shape, *rounds])
    canvas.paint(area, darker(person.hair, 0.82))
    share = rng.random((80, 1))
    column = rng.random(80)
    dots = line[(column * (len(line) - 1)).astype(int)] * share + top[::-1][(column * (len(top) - 1)).astype(int)] * (
        1 - share
    )
    arcs = []
    for (x, y), start in zip(pose.head_pixels(dots), rng.uniform(0, 6.28, 80), strict=True):
        turn = np.linspace(start, start + 3.6, 8)
        arcs.append(np.stack([x + 0.085 * u * np.cos(turn), y + 0.085 * u * np.sin(turn)], axis=1))
    canvas.stroke(arcs[:40], darker(person.hair, 0.45), 0.035 * u, 0.7, 0.008 * u, area)
    canvas.stroke(arcs[40:], _gloss(person), 0.026 * u, 0.28, 0.01 * u, area, tapered=True)


def _scarf(person: PersonTraits) -> Colour:
    return mix(person.accent, (240, 232, 224), 0.25)


def _hijab(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    u, cloth = pose.unit, _scarf(person)
    rim = [(0, -1.0), (0.5, -0.94), (0.82, -0.5), (0.9, 0.2), (0.8, 0.95), (0.5, 1.42), (0, 1.6)]
    edge = curve(pose.head_pixels(mirrored(rim)))
    opening = canvas.mask([edge])
    outline = mirrored(
        [(0, -1.8), (0.72, -1.6), (1.12, -0.9), (1.2, 0.1), (1.1, 1.0), (1.15, 1.9), (1.5, 2.5), (0.8, 3.3), (0, 3.5)]
    )
    area = canvas.mask([curve(pose.head_pixels(outline))]).without(opening)
    canvas.paint(area, cloth)
    lines = [
        curve(
            pose.head_pixels(
                [(s * 0.94, -0.6 + d), (s * (1.02 + d / 3), 0.5), (s * 0.75, 1.75 + d), (-s * 0.5, 2.3 + d)]
            ),
            closed=False,
        )
        for s, d in ((1, 0.0), (-1, 0.12), (1, 0.3), (-1, 0.45))
    ]
    canvas.stroke(lines, darker(cloth, 0.6), 0.08 * u, 0.5, 0.05 * u, area)
    top = curve(pose.head_pixels([(-0.9, -0.75), (-0.5, -1.2), (0, -1.3), (0.5, -1.2), (0.9, -0.75)]), closed=False)
    canvas.stroke([top], mix(cloth, (255, 255, 255), 0.5), 0.12 * u, 0.5, 0.08 * u, area)
    canvas.stroke([np.concatenate([edge, edge[:1]])], darker(cloth, 0.55), 0.07 * u, 0.7, 0.02 * u, area)
