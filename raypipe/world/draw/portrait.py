"""One person, painted from back to front: hair behind, body, head, features, hair in front, glasses and hat."""

from __future__ import annotations

import numpy as np

from raypipe.world.draw import hair
from raypipe.world.draw.body import paint_body
from raypipe.world.draw.canvas import Canvas, Colour, Mask, Points, curve, darker, ellipse, mix
from raypipe.world.draw.hats import paint_hat
from raypipe.world.draw.person import PersonTraits, Pose, mirrored

LIGHT: Colour = (255, 244, 226)


def paint_person(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    """Paints `person` at `pose`. It takes no random generator, so the same arguments give the same picture."""
    hair.paint_back(canvas, person, pose)
    paint_body(canvas, person, pose)
    _ears(canvas, person, pose)
    head = _head(canvas, person, pose)
    _shading(canvas, person, pose, head)
    if person.beard:
        _beard(canvas, person, pose, head)
    _nose(canvas, person, pose, head)
    _mouth(canvas, person, pose, head)
    for side in (-1, 1):
        _eye(canvas, person, pose, head, side)
        _brow(canvas, person, pose, head, side)
    hair.paint_front(canvas, person, pose, head)
    if person.glasses:
        _glasses(canvas, pose)
    paint_hat(canvas, person, pose)


def shadow_of(person: PersonTraits) -> Colour:
    """The colour of shaded skin: darker and redder than the skin."""
    return person.skin[0] * 0.62, person.skin[1] * 0.5, person.skin[2] * 0.47


def _shine_of(person: PersonTraits) -> Colour:
    return mix(person.skin, LIGHT, 0.5 - 0.12 * person.tone)


def _brow_colour(person: PersonTraits) -> Colour:
    # Fair hair on deep skin is taken to be dyed, so brows and beard stay dark.
    return mix(person.hair, (50, 36, 30), 0.9 if person.tone > 0.55 else 0.0)


def _head(canvas: Canvas, person: PersonTraits, pose: Pose) -> Mask:
    jaw, cheek, length = person.jaw, person.cheek, person.length
    outline = mirrored(
        [
            (0, -1.52),
            (0.48, -1.4),
            (0.84, -0.99),
            (0.98, -0.46),
            (0.99 + cheek, 0.05),
            (0.94 + cheek, 0.5),
            (0.82 + jaw, 0.98 * length),
            (0.58 + jaw, 1.38 * length),
            (0.3 + jaw / 2, 1.62 * length),
            (0, 1.68 * length),
        ]
    )
    return canvas.fill(curve(pose.head_pixels(outline)), person.skin)


def _shading(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask) -> None:
    u, shadow, shine = pose.unit, shadow_of(person), _shine_of(person)
    lit_x, lit_y = pose.head_pixel(0.16 * np.sign(pose.light) + 0.22 * pose.light, -0.05)
    bright = canvas.mask([ellipse(lit_x, lit_y, 0.86 * u, 1.5 * u, pose.tilt)], blur=0.24 * u)
    canvas.paint(head.without(bright), shadow, 0.66)
    rim = canvas.mask([ellipse(*pose.head_pixel(0, -0.02), 0.9 * u, 1.6 * u, pose.tilt)], blur=0.11 * u)
    canvas.paint(head.without(rim), shadow, 0.4)
    side = float(np.sign(pose.light)) or 1.0
    spots = [
        ((0.1 * side, -0.78), 0.5, 0.24, 0.16, 0.5),
        ((0.52 * side, 0.42), 0.2, 0.15, 0.11, 0.6),
        ((-0.52 * side, 0.42), 0.18, 0.13, 0.11, 0.35),
        ((0.03 * side, 1.42 * person.length), 0.17, 0.1, 0.08, 0.4),
    ]
    for at, rx, ry, blur, opacity in spots:
        x, y = pose.face_pixel(*at)
        canvas.fill(ellipse(x, y, rx * u, ry * u, pose.tilt), shine, opacity, blur * u, head)
    rosy = mix(person.skin, (206, 70, 66), 0.5)
    for cheek in (-1, 1):
        x, y = pose.face_pixel(0.58 * cheek, 0.56)
        canvas.fill(ellipse(x, y, 0.22 * u, 0.16 * u), rosy, person.blush, 0.12 * u, head)
        x, y = pose.face_pixel(0.36 * cheek, -0.1)
        canvas.fill(ellipse(x, y, 0.27 * u, 0.17 * u, pose.tilt), shadow, 0.5, 0.07 * u, head)
        if person.smile > 0.25:
            fold = curve(
                pose.face_pixels([(0.27 * cheek, 0.6), (0.42 * cheek, 0.8), (0.46 * cheek, 1.0)]), closed=False
            )
            canvas.stroke([fold], shadow, 0.05 * u, 0.5 * person.smile, 0.03 * u, head)
    if person.freckles:
        _freckles(canvas, person, pose, head)


def _freckles(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask) -> None:
    rng = np.random.default_rng(person.hair_seed)
    spots = [
        ellipse(*pose.face_pixel(x, y), 0.016 * pose.unit, 0.016 * pose.unit, points=8)
        for x, y in zip(rng.normal(0, 0.36, 26), rng.normal(0.42, 0.1, 26), strict=True)
    ]
    canvas.paint(canvas.mask(spots).within(head), shadow_of(person), 0.5)


def _ears(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    if person.style == "hijab":
        return
    u = pose.unit
    for side in (-1, 1):
        x, y = pose.head_pixel(0.99 * side, 0.2)
        ear = canvas.fill(ellipse(x, y, 0.15 * u, 0.3 * u, pose.tilt - 0.15 * side), darker(person.skin, 0.9))
        canvas.fill(
            ellipse(x + 0.02 * u * side, y, 0.07 * u, 0.19 * u, pose.tilt), shadow_of(person), 0.6, 0.04 * u, ear
        )
        if person.earrings:
            x, y = pose.head_pixel(1.02 * side, 0.55)
            canvas.fill(ellipse(x, y, 0.05 * u, 0.06 * u), (232, 200, 120))
            canvas.fill(ellipse(x - 0.01 * u, y - 0.02 * u, 0.02 * u, 0.02 * u), (255, 246, 214))


def _beard(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask) -> None:
    u, length = pose.unit, person.length
    outline = mirrored(
        [
            (0, 0.84),
            (0.3, 0.82),
            (0.46, 1.0),
            (0.7, 0.86),
            (0.9, 0.3),
            (1.1, 0.4),
            (0.9, 1.4 * length),
            (0, 1.85 * length),
        ]
    )
    area = canvas.mask([curve(pose.head_pixels(outline))], blur=0.06 * u).within(head)
    canvas.paint(area, mix(darker(_brow_colour(person), 0.9), person.skin, 0.25), 0.35 + 0.5 * person.beard)
    rng = np.random.default_rng(person.hair_seed)
    starts = np.stack([rng.uniform(-0.9, 0.9, 90), rng.uniform(0.5, 1.7, 90)], axis=1)
    ends = starts + np.stack([starts[:, 0] * 0.04, np.full(90, 0.1)], axis=1)
    strands = [np.stack([a, b]) for a, b in zip(pose.head_pixels(starts), pose.head_pixels(ends), strict=True)]
    canvas.stroke(strands, darker(_brow_colour(person), 0.6), 0.022 * u, 0.25 * person.beard, within=area)


def _nose(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask) -> None:
    u, wide, shadow = pose.unit, person.nose_width, shadow_of(person)
    side = float(np.sign(pose.light)) or 1.0
    dark = [
        (-0.09 * side, -0.2),
        (-0.13 * side, 0.1),
        (-0.2 * side * wide, 0.5),
        (-0.1 * side, 0.56),
        (-0.05 * side, 0.1),
    ]
    canvas.fill(curve(pose.face_pixels(dark, 0.1)), shadow, 0.42, 0.05 * u, head)
    bridge = [(0.02 * side, -0.15), (0.06 * side, 0.2), (0.05 * side, 0.46), (-0.02 * side, 0.46), (-0.02 * side, 0.1)]
    canvas.fill(curve(pose.face_pixels(bridge, 0.15)), _shine_of(person), 0.6, 0.035 * u, head)
    under = [(-0.24 * wide, 0.6), (0, 0.66), (0.24 * wide, 0.6), (0.14, 0.72), (0, 0.76), (-0.14, 0.72)]
    canvas.fill(curve(pose.face_pixels(under, 0.12)), shadow, 0.6, 0.035 * u, head)
    for wing in (-1, 1):
        alar = [(0.17 * wing * wide, 0.45), (0.24 * wing * wide, 0.55), (0.2 * wing * wide, 0.65)]
        canvas.stroke(
            [curve(pose.face_pixels(alar, 0.1), closed=False)], shadow, 0.034 * u, 0.65, 0.012 * u, head, tapered=True
        )
        x, y = pose.face_pixel(0.1 * wing * wide, 0.635, 0.14)
        nostril = ellipse(x, y, 0.055 * u * wide, 0.027 * u, pose.tilt - 0.3 * wing)
        canvas.fill(nostril, darker(shadow, 0.45), 0.85, 0.008 * u, head)
    x, y = pose.face_pixel(0.04 * side, 0.47, 0.2)
    canvas.fill(ellipse(x, y, 0.06 * u, 0.05 * u), LIGHT, 0.4, 0.025 * u, head)


def _mouth(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask) -> None:
    u, shadow, smile = pose.unit, shadow_of(person), person.smile
    half, gap = 0.34 + 0.1 * smile, 0.17 * person.open_mouth * max(0.3, smile)
    t = np.linspace(-1, 1, 21)
    belly, x = 1 - t**2, half * t
    seam = 1.0 + 0.05 * smile - 0.15 * smile * t**2 - 0.02 * np.exp(-((t / 0.2) ** 2)) * (gap == 0)
    bow = 1 - 0.25 * np.exp(-((t / 0.16) ** 2))
    upper = seam - (0.115 - 0.02 * smile) * person.lip_weight * belly**0.7 * bow
    inner = seam + gap * belly**0.8
    lower = inner + (0.15 - 0.03 * smile) * person.lip_weight * belly**0.7
    below = float(lower.max())

    def band(top: Points, bottom: Points) -> Points:
        rows = np.concatenate([np.stack([x, top], axis=1), np.stack([x, bottom], axis=1)[::-1]])
        return pose.face_pixels(rows, 0.05)

    x0, y0 = pose.face_pixel(0, below + 0.1)
    canvas.fill(ellipse(x0, y0, 0.22 * u, 0.06 * u, pose.tilt), shadow, 0.55, 0.045 * u, head)
    whole = canvas.fill(band(upper, lower), person.lip, 0.95, 0.008 * u, head)
    canvas.fill(band(upper, seam), darker(person.lip, 0.74), 0.6, 0.012 * u, whole)
    x1, y1 = pose.face_pixel(0.06 * np.sign(pose.light), below - 0.055, 0.05)
    canvas.fill(ellipse(x1, y1, 0.13 * u, 0.026 * u, pose.tilt), mix(person.lip, LIGHT, 0.6), 0.5, 0.02 * u, whole)
    if gap > 0:
        mouth = canvas.fill(band(seam, inner), (74, 28, 30), blur=0.006 * u)
        teeth = band(seam - 0.02, seam + gap * 0.72 * belly**0.5)
        canvas.fill(teeth, (243, 238, 230), 0.97, 0.01 * u, mouth)
    line = pose.face_pixels(np.stack([x, seam], axis=1), 0.05)
    canvas.stroke([line], mix(darker(shadow, 0.4), person.lip, 0.2), 0.036 * u, 0.8, 0.008 * u, head, tapered=True)
    for end in (-1, 1):
        x2, y2 = pose.face_pixels([(half * end, float(seam[0]))], 0.03)[0]
        canvas.fill(ellipse(x2, y2, 0.05 * u, 0.04 * u), shadow, 0.65, 0.022 * u, head)


def _eye(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask, side: int) -> None:
    u, shadow = pose.unit, shadow_of(person)
    tall = 0.1 * person.eye_open * (1 - 0.12 * max(0.0, person.smile))
    inner, outer, middle = 0.24 * side, 0.68 * side, 0.46 * side
    top = [
        (inner, 0.03),
        (0.34 * side, -tall * 0.8),
        (middle, -tall * 1.08),
        (0.59 * side, -tall * 0.7),
        (outer, -0.015),
    ]
    low = [(0.58 * side, tall * 0.6), (middle, tall * 0.8), (0.34 * side, tall * 0.62)]
    eye = canvas.fill(curve(pose.face_pixels([*top, *low], 0.02), steps=5), (236, 230, 224))
    x, y = pose.face_pixel(middle + 0.02 * side - 0.1 * np.sin(pose.yaw), -0.012, 0.04)
    canvas.fill(ellipse(x, y, 0.108 * u, 0.112 * u), darker(person.iris, 0.5), within=eye)
    canvas.fill(ellipse(x, y + 0.012 * u, 0.088 * u, 0.09 * u), person.iris, 0.9, 0.014 * u, eye)
    canvas.fill(ellipse(x, y, 0.046 * u, 0.046 * u), (14, 10, 12), within=eye)
    upper = curve(pose.face_pixels(top, 0.02), closed=False)
    lash: Colour = mix((30, 20, 20), person.hair, 0.15)
    canvas.stroke([upper + np.array([0, 0.035 * u])], (50, 34, 34), 0.05 * u, 0.5, 0.018 * u, eye)
    glint = 0.035 * u * (np.sign(pose.light) or 1)
    canvas.fill(ellipse(x + glint, y - 0.04 * u, 0.024 * u, 0.024 * u, points=12), (255, 255, 255), 0.95)
    canvas.stroke([upper], lash, (0.038 + 0.012 * person.lashes) * u, 0.95, 0.006 * u)
    flick = pose.face_pixels([(0.64 * side, -0.04), (0.73 * side, -0.07)], 0.02)
    canvas.stroke([flick], lash, 0.032 * u, 0.8 * person.lashes, 0.006 * u)
    crease = [
        (0.27 * side, -0.05),
        (0.36 * side, -tall * 1.62),
        (0.5 * side, -tall * 1.85),
        (0.66 * side, -tall * 1.15),
    ]
    canvas.stroke(
        [curve(pose.face_pixels(crease, 0.02), closed=False)], darker(shadow, 0.75), 0.026 * u, 0.6, 0.01 * u, head
    )
    canvas.stroke(
        [curve(pose.face_pixels([top[-1], *low, top[0]], 0.02), closed=False)], shadow, 0.022 * u, 0.8, 0.006 * u
    )
    bag = curve(pose.face_pixels([(0.3 * side, 0.12), (0.44 * side, 0.19), (0.6 * side, 0.15)]), closed=False)
    canvas.stroke([bag], shadow, 0.04 * u, 0.4, 0.025 * u, head)


def _brow(canvas: Canvas, person: PersonTraits, pose: Pose, head: Mask, side: int) -> None:
    u, weight = pose.unit, person.brow_weight
    outline = [
        (0.19 * side, -0.29),
        (0.2 * side, -0.37 - 0.02 * weight),
        (0.5 * side, -0.455 - 0.03 * weight),
        (0.8 * side, -0.3),
        (0.52 * side, -0.385),
    ]
    colour = mix(darker(_brow_colour(person), 0.62), (60, 44, 38), 0.35)
    canvas.fill(curve(pose.face_pixels(outline, 0.03), steps=6), colour, 0.88, 0.016 * u, head)


def _glasses(canvas: Canvas, pose: Pose) -> None:
    u = pose.unit
    rims = [pose.face_pixels(ellipse(0.46 * side, 0.03, 0.34, 0.29, points=28), 0.1) for side in (-1, 1)]
    closed = [np.concatenate([rim, rim[:1]]) for rim in rims]
    bridge = curve(pose.face_pixels([(-0.13, 0.0), (0, -0.05), (0.13, 0.0)], 0.12), closed=False)
    arms = [pose.head_pixels([(0.78 * side, -0.04), (1.0 * side, -0.08)]) for side in (-1, 1)]
    canvas.stroke([*closed, bridge, *arms], (38, 32, 34), 0.045 * u, 0.92)
    for rim in rims:
        lens = canvas.mask([rim])
        x, y = rim.mean(axis=0)
        glare = np.array([(x - 0.3 * u, y - 0.3 * u), (x - 0.14 * u, y - 0.3 * u), (x - 0.3 * u, y + 0.05 * u)])
        canvas.fill(glare, (255, 255, 255), 0.18, 0.02 * u, lens)
