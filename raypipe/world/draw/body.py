"""Neck, shoulders and clothes."""

from __future__ import annotations

import numpy as np

from raypipe.world.draw.canvas import Canvas, Mask, curve, darker, ellipse, mix
from raypipe.world.draw.person import PersonTraits, Pose, mirrored

_FLOOR = 16.0  # below any picture's lower edge, in half face widths


def paint_body(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    """Paints everything below the head, down to the edge of the picture."""
    u = pose.unit
    shadow = (person.skin[0] * 0.6, person.skin[1] * 0.48, person.skin[2] * 0.46)
    chest = mirrored([(0.0, 1.0), (0.52, 1.0), (0.54, 1.7), (0.64, 2.04), (0.66, 2.6), (0.4, 3.6), (0.0, 3.7)])
    skin = canvas.fill(curve(pose.body_pixels(chest)), darker(person.skin, 0.93))
    x, y = pose.head_pixel(-0.12 * pose.light, 1.52)
    canvas.fill(ellipse(x, y, 0.72 * u, 0.5 * u), shadow, 0.85, 0.12 * u, skin)
    for side in (-1, 1):
        bone = curve(pose.body_pixels([(0.12 * side, 2.42), (0.4 * side, 2.36), (0.8 * side, 2.3)]), closed=False)
        canvas.stroke([bone], shadow, 0.06 * u, 0.4, 0.04 * u, skin)
    cloth = _garment(canvas, person, pose)
    _folds(canvas, person, pose, cloth)


def _garment(canvas: Canvas, person: PersonTraits, pose: Pose) -> Mask:
    u, kind = pose.unit, person.garment
    collar = {"vneck": 3.0, "shirt": 2.75, "jacket": 2.9}.get(kind, 2.42)
    shoulder = [(0.58, 1.94), (0.95, 2.1), (1.65, 2.34), (2.2, 2.8), (2.5, 3.8), (2.58, 4.9)]
    deep = [(0.0, collar)] if collar > 2.5 else [(-0.36, 2.32), (0.0, collar), (0.36, 2.32)]
    neck = [(-0.56, 1.96), *deep, (0.56, 1.96)]
    left = [(-x, y) for x, y in shoulder]
    outline = np.concatenate(
        [
            curve(pose.body_pixels(shoulder), closed=False),
            pose.body_pixels([(2.6, _FLOOR), (-2.6, _FLOOR)]),
            curve(pose.body_pixels(left), closed=False)[::-1],
            curve(pose.body_pixels(neck), closed=False) if collar < 2.5 else pose.body_pixels(neck),
        ]
    )
    cloth = canvas.fill(outline, person.cloth)
    if kind == "stripes":
        for row in np.arange(2.2, _FLOOR, 0.42):
            band = curve(pose.body_pixels([(-2.6, row + 0.3), (0, row + 0.1), (2.6, row + 0.3)]), closed=False)
            canvas.stroke([band], person.accent, 0.16 * u, 0.85, within=cloth)
    if kind in ("shirt", "jacket"):
        _collar(canvas, person, pose, cloth)
    elif kind == "hoodie":
        hood = curve(pose.body_pixels([(-0.9, 1.95), (-0.75, 2.5), (0, 2.75), (0.75, 2.5), (0.9, 1.95)]), closed=False)
        canvas.stroke([hood], darker(person.cloth, 0.75), 0.3 * u, 1.0, 0.02 * u, cloth)
        for side in (-1, 1):
            cord = curve(pose.body_pixels([(0.22 * side, 2.75), (0.25 * side, 3.2), (0.22 * side, 3.7)]), closed=False)
            canvas.stroke([cord], mix(person.cloth, (250, 250, 250), 0.7), 0.06 * u)
    else:
        rim = pose.body_pixels(neck) if collar > 2.5 else curve(pose.body_pixels(neck), closed=False)
        canvas.stroke([rim], darker(person.cloth, 0.72), 0.09 * u, 0.9, within=cloth)
    return cloth


def _collar(canvas: Canvas, person: PersonTraits, pose: Pose, cloth: Mask) -> None:
    u = pose.unit
    for side in (-1, 1):
        if person.garment == "shirt":
            flap = [(0.55 * side, 1.92), (0.04 * side, 2.72), (0.44 * side, 3.02), (0.8 * side, 2.12)]
        else:
            flap = [(0.5 * side, 2.05), (0.06 * side, 3.4), (0.5 * side, 3.3), (1.05 * side, 2.7), (0.85 * side, 2.12)]
        area = canvas.fill(pose.body_pixels(flap), mix(person.cloth, (255, 255, 255), 0.16))
        edge = pose.body_pixels([*flap[1:], flap[0]])
        canvas.stroke([edge], darker(person.cloth, 0.6), 0.04 * u, 0.6, 0.02 * u, area)
    seam = pose.body_pixels([(0.0, 2.95), (0.02, _FLOOR)])
    canvas.stroke([seam], darker(person.cloth, 0.6), 0.04 * u, 0.6, within=cloth)
    for row in np.arange(3.3, _FLOOR, 0.7):
        x, y = pose.body_pixels([(0.1, row)])[0]
        canvas.fill(ellipse(x, y, 0.06 * u, 0.06 * u, points=12), mix(person.cloth, (250, 248, 240), 0.75))


def _folds(canvas: Canvas, person: PersonTraits, pose: Pose, cloth: Mask) -> None:
    u, side = pose.unit, float(np.sign(pose.light)) or 1.0
    dark = pose.body_pixels([(-0.7 * side, 2.0), (-2.6 * side, 2.2), (-2.6 * side, _FLOOR), (-1.3 * side, _FLOOR)])
    canvas.fill(dark, darker(person.cloth, 0.5), 0.55, 0.35 * u, cloth)
    bright = pose.body_pixels([(0.9 * side, 2.2), (1.9 * side, 2.6), (1.9 * side, 3.2), (1.2 * side, 2.8)])
    canvas.fill(bright, mix(person.cloth, (255, 248, 236), 0.45), 0.6, 0.2 * u, cloth)
    for arm in (-1, 1):
        fold = curve(pose.body_pixels([(1.35 * arm, 3.0), (1.5 * arm, 3.7), (1.42 * arm, 5.0)]), closed=False)
        canvas.stroke([fold], darker(person.cloth, 0.45), 0.12 * u, 0.4, 0.05 * u, cloth, tapered=True)
    x, y = pose.head_pixel(0.0, 1.95)
    canvas.fill(ellipse(x, y, 0.9 * u, 0.35 * u), darker(person.cloth, 0.35), 0.45, 0.15 * u, cloth)
