"""Looking into what was fetched: a picture's bytes examined and its faces counted, here or in a process of its own."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from raypipe.config import FaceOptions, IngestOptions
from raypipe.errors import one_line
from raypipe.ingest.faces import FaceDetector
from raypipe.ingest.isolate import in_child
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


def look_apart(bodies: Sequence[bytes | memoryview], ingest: IngestOptions, faces: FaceOptions) -> list[Seen]:
    """As `look` for each, in a child process: a picture that ends it is told by its row, and the others go on."""
    function = functools.partial(look, ingest=ingest, faces=faces)
    return in_child(function, [bytes(body) for body in bodies], _died)


def _died(body: bytes | memoryview, how: str) -> Seen:
    error = f"whatever decodes it or looks for faces ended natively: {how}"
    picture, _ = examine(b"", 1, max_side=None, phash=False)
    return Seen(replace(picture, error=error, n_bytes=len(body)), error=error)


@functools.cache
def _detector(options: FaceOptions) -> FaceDetector:
    return FaceDetector(options)
