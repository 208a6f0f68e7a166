"""Hats: a beanie, a cap, a sun hat."""

from __future__ import annotations

import numpy as np

from raypipe.world.draw.canvas import Canvas, Points, curve, darker, ellipse, mix
from raypipe.world.draw.person import PersonTraits, Pose, mirrored


def paint_hat(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    """Paints the hat, if the person wears one."""
    if person.hat == "beanie":
        _beanie(canvas, person, pose)
    elif person.hat == "cap":
        _cap(canvas, person, pose)
    elif person.hat == "sunhat":
        _sunhat(canvas, person, pose)


def _hat_outline(person: PersonTraits, pose: Pose, half: list[tuple[float, float]]) -> Points:
    """A symmetric outline on the head, from its right half. On a bald or shaved head, a hat sits closer."""
    close = person.style in ("bald", "buzz")
    width, drop = (0.93, 0.14) if close else (1.0, 0.07)
    return curve(pose.head_pixels(mirrored([(x * width, y + drop) for x, y in half])))


def _beanie(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    u, cloth = pose.unit, person.accent
    half = [(0.0, -2.0), (0.6, -1.9), (1.05, -1.4), (1.14, -0.85), (0.6, -0.98), (0.0, -1.02)]
    crown = canvas.fill(_hat_outline(person, pose, half), cloth)
    ribs = [
        curve(pose.head_pixels([(x * 0.4, -2.0), (x * 0.85, -1.5), (x, -0.8)]), closed=False)
        for x in np.linspace(-1.1, 1.1, 13)
    ]
    canvas.stroke(ribs, darker(cloth, 0.6), 0.04 * u, 0.5, 0.015 * u, crown)
    half = [(0.0, -1.25), (0.7, -1.2), (1.16, -1.0), (1.18, -0.7), (0.7, -0.84), (0.0, -0.9)]
    band = canvas.fill(_hat_outline(person, pose, half), darker(cloth, 0.85))
    edge = pose.head_pixels([(-1.2, -0.78), (0, -0.93), (1.2, -0.78), (1.2, -0.5), (-1.2, -0.5)])
    canvas.fill(edge, darker(cloth, 0.4), 0.5, 0.08 * u, band)


def _cap(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    u, cloth = pose.unit, person.accent
    half = [(0.0, -1.9), (0.7, -1.76), (1.1, -1.3), (1.14, -0.9), (0.6, -1.05), (0.0, -1.08)]
    crown = canvas.fill(_hat_outline(person, pose, half), cloth)
    seams = [curve(pose.head_pixels([(0, -1.9), (x * 0.8, -1.5), (x, -0.9)]), closed=False) for x in (-0.5, 0.5)]
    canvas.stroke(seams, darker(cloth, 0.7), 0.03 * u, 0.5, within=crown)
    shine = ellipse(*pose.head_pixel(0.4 * pose.light, -1.55), 0.4 * u, 0.15 * u)
    canvas.fill(shine, mix(cloth, (255, 255, 255), 0.5), 0.5, 0.12 * u, crown)
    half = [(0.0, -1.2), (0.7, -1.14), (1.14, -0.88), (0.8, -0.78), (0.0, -0.84)]
    canvas.fill(_hat_outline(person, pose, half), darker(cloth, 0.6), blur=0.012 * u)


def _sunhat(canvas: Canvas, person: PersonTraits, pose: Pose) -> None:
    u, straw = pose.unit, mix(person.accent, (226, 196, 140), 0.8)
    half = [(0.0, -2.0), (0.6, -1.95), (0.95, -1.5), (1.0, -0.95), (0.0, -0.95)]
    crown = canvas.fill(_hat_outline(person, pose, half), straw)
    half = [(0.0, -1.3), (0.98, -1.25), (1.05, -0.95), (0.0, -0.95)]
    canvas.paint(canvas.mask([_hat_outline(person, pose, half)]).within(crown), darker(person.accent, 0.7), 0.9)
    half = [(0.0, -1.12), (1.1, -1.12), (1.9, -0.85), (1.2, -0.76), (0.0, -0.86)]
    brim = canvas.fill(_hat_outline(person, pose, half), darker(straw, 0.92))
    below = ellipse(*pose.head_pixel(0, -0.75), 1.3 * u, 0.1 * u, pose.tilt)
    canvas.fill(below, darker(straw, 0.5), 0.6, 0.06 * u, brim)
