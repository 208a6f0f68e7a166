"""Looking into what was fetched: a picture's bytes examined and its faces counted, here or in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from raypipe.config import FaceOptions, IngestOptions
from raypipe.errors import one_line
from raypipe.ingest.faces import FaceDetector
from raypipe.ingest.isolate import Isolated
from raypipe.ingest.pictures import Picture, examine


@dataclass(frozen=True)
class Seen:
    """What a picture's bytes hold, its faces (None where they were not counted), what went wrong, and the seconds spent
    decoding and detecting.
    """

    picture: Picture
    faces: list[dict[str, Any]] | None = None
    error: str | None = None
    decode: float = 0.0
    detect: float = 0.0


def decodes(ingest: IngestOptions, faces: FaceOptions) -> bool:
    """Whether pictures are decoded at all; otherwise only their headers and their ends are read."""
    return faces.enabled or bool(ingest.phash)


def look(body: bytes | memoryview, ingest: IngestOptions, faces: FaceOptions) -> Seen:
    """Examine one picture. Whatever it does to its decoder, short of ending the process, is in the answer."""
    started = time.perf_counter()
    phash = faces.enabled if ingest.phash is None else ingest.phash
    side = faces.max_side if faces.enabled else None
    picture, pixels = examine(body, ingest.max_pixels, max_side=side, phash=phash)
    decoded = time.perf_counter()
    seen = Seen(picture, error=picture.error, decode=decoded - started)
    if pixels is None:
        return seen
    try:
        found = _detector(faces).detect(pixels, (picture.width or pixels.width, picture.height or pixels.height))
    except Exception as problem:  # a whole picture that the detector cannot take stays one, its faces uncounted
        return replace(seen, error=f"faces not counted: {one_line(problem)}", detect=time.perf_counter() - decoded)
    return replace(seen, faces=[asdict(face) for face in found], detect=time.perf_counter() - decoded)


Look = Callable[[Sequence[bytes | memoryview]], list[Seen]]
"""Looks into pictures, in order."""


@contextlib.contextmanager
def looking(ingest: IngestOptions, faces: FaceOptions, *, apart: bool = False) -> Iterator[Look]:
    """`look` for many pictures; with `apart` in a child process, which lives as long as the body.

    A picture that ends the child is told by its `error`, and the others go on.
    """
    one = functools.partial(look, ingest=ingest, faces=faces)
    if not apart:
        yield lambda bodies: [one(body) for body in bodies]
        return
    with Isolated(one, _died) as child:
        yield lambda bodies: child([bytes(body) for body in bodies])


def _died(body: bytes | memoryview, how: str) -> Seen:
    error = f"whatever decodes it or looks for faces ended natively: {how}"
    picture, _ = examine(b"", 1, max_side=None, phash=False)
    return Seen(replace(picture, error=error, n_bytes=len(body)), error=error)


@functools.cache
def _detector(options: FaceOptions) -> FaceDetector:
    return FaceDetector(options)
