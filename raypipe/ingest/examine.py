"""Examines fetched bytes: checks the picture and counts its faces, in this process or in a child process."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raypipe.config.data_options import FaceOptions, IngestOptions
from raypipe.errors import one_line
from raypipe.ingest.faces import FaceDetector
from raypipe.pictures.examine import Picture, examine
from raypipe.pictures.formats import kind_of
from raypipe.processes.child import Isolated, in_child

# Limit for one picture in a child process. The CNN takes minutes on a slow machine.
_SECONDS = 600.0


@dataclass(frozen=True)
class Seen:
    """The result for one picture: what its bytes hold, its faces (None if they were not counted), the error, and the
    seconds spent on decoding and detecting.
    """

    picture: Picture
    faces: list[dict[str, Any]] | None = None
    error: str | None = None
    decode: float = 0.0
    detect: float = 0.0


def decodes(ingest: IngestOptions, faces: FaceOptions) -> bool:
    """Whether pictures are decoded. If not, only their headers and their ends are read."""
    return faces.enabled or bool(ingest.phash)


def look(body: bytes | memoryview, ingest: IngestOptions, faces: FaceOptions) -> Seen:
    """Examine one picture. Errors of its decoder are in the result, unless they end the process."""
    started = time.perf_counter()
    phash = faces.enabled if ingest.phash is None else ingest.phash
    side = faces.max_side if faces.enabled else None
    picture, pixels = examine(body, ingest.max_pixels, max_side=side, phash=phash)
    decoded = time.perf_counter()
    seen = Seen(picture, error=picture.error, decode=decoded - started)
    if pixels is None:
        return seen
    try:
        found = _detector(faces, _changed(faces.model)).detect(
            pixels, (picture.width or pixels.width, picture.height or pixels.height)
        )
    except Exception as problem:  # if only the detector fails, the picture is good and its faces are uncounted
        return replace(seen, error=f"faces not counted: {one_line(problem)}", detect=time.perf_counter() - decoded)
    return replace(seen, faces=[asdict(face) for face in found], detect=time.perf_counter() - decoded)


Look = Callable[[Sequence[bytes | memoryview]], list[Seen]]
"""Examines pictures, in order."""


# Formats whose headers Pillow reads with Python code, which cannot end the process.
_HARMLESS_HEADERS = ("JPEG", "PNG", "GIF")
_KIND_BYTES = 1024


@contextlib.contextmanager
def looking(ingest: IngestOptions, faces: FaceOptions, *, apart: bool = False) -> Iterator[Look]:
    """Yield `look` for many pictures. With `apart` it runs in a child process, which lives as long as the body.

    If nothing is decoded, only pictures whose headers are read by native code go to the child process. A picture that
    ends the child is examined again in another child, without its faces. If it can be decoded, it is a picture with
    uncounted faces. If it ends that child too, its status is ``not_an_image``. The other pictures are not affected.
    """
    one = functools.partial(look, ingest=ingest, faces=faces)
    inline = not decodes(ingest, faces)
    if not apart and not inline:
        yield lambda bodies: [one(body) for body in bodies]
        return
    with Isolated(one, functools.partial(_died, ingest=ingest, faces=faces), seconds=_SECONDS) as child:

        def one_of_them(body: bytes | memoryview) -> Seen:
            kind = kind_of(bytes(body[:_KIND_BYTES])) if inline else None
            return one(body) if inline and (kind is None or kind in _HARMLESS_HEADERS) else child([bytes(body)])[0]

        yield lambda bodies: [one_of_them(body) for body in bodies]


def _died(body: bytes | memoryview, how: str, ingest: IngestOptions, faces: FaceOptions) -> Seen:
    if not faces.enabled:
        return _undecodable(body, how)
    # The perceptual hash makes sure that the picture is decoded.
    decoding, counting = ingest.model_copy(update={"phash": True}), faces.model_copy(update={"enabled": False})
    (seen,) = in_child(functools.partial(look, ingest=decoding, faces=counting), [body], _undecodable, seconds=_SECONDS)
    if seen.picture.status != "ok":
        return seen
    picture = replace(seen.picture, phash=None) if ingest.phash is False else seen.picture
    return replace(seen, picture=picture, error=f"faces not counted: the detector ended natively: {how}")


def _undecodable(body: bytes | memoryview, how: str) -> Seen:
    error = f"whatever decodes it ended natively: {how}"
    sha256 = hashlib.sha256(body).hexdigest()
    return Seen(Picture("not_an_image", error, sha256, len(body), format=kind_of(bytes(body))), error=error)


def _changed(model: str | None) -> tuple[int, int] | None:
    """Return size and time of the last change of the model file, which may change while this process lives."""
    if model is None:
        return None
    status = Path(model).stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _detector(options: FaceOptions, _: tuple[int, int] | None) -> FaceDetector:
    return FaceDetector(options)
