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
from raypipe.pictures.examine import PictureFacts, examine
from raypipe.pictures.formats import detect_format
from raypipe.processes.child import ChildWorker, map_in_child

# Limit for one picture in a child process. The CNN takes minutes on a slow machine.
_SECONDS = 600.0


@dataclass(frozen=True)
class ExaminedPicture:
    """The result for one picture: the facts about its bytes, its faces (None if they were not counted), the error, and
    the seconds spent on decoding and detecting.
    """

    picture: PictureFacts
    faces: list[dict[str, Any]] | None = None
    error: str | None = None
    decode_seconds: float = 0.0
    detect_seconds: float = 0.0


def needs_decoding(ingest: IngestOptions, faces: FaceOptions) -> bool:
    """Whether pictures are decoded. If not, only their headers and their ends are read."""
    return faces.enabled or bool(ingest.phash)


def examine_one(body: bytes | memoryview, ingest: IngestOptions, faces: FaceOptions) -> ExaminedPicture:
    """Examine one picture. Errors of its decoder are in the result, unless they end the process."""
    started = time.perf_counter()
    phash = faces.enabled if ingest.phash is None else ingest.phash
    side = faces.max_side if faces.enabled else None
    picture, pixels = examine(body, ingest.max_pixels, max_side=side, phash=phash)
    decoded = time.perf_counter()
    examined = ExaminedPicture(picture, error=picture.error, decode_seconds=decoded - started)
    if pixels is None:
        return examined
    try:
        found = _detector(faces, _file_state(faces.model)).detect(
            pixels, (picture.width or pixels.width, picture.height or pixels.height)
        )
    except Exception as problem:  # if only the detector fails, the picture is good and its faces are uncounted
        return replace(
            examined, error=f"faces not counted: {one_line(problem)}", detect_seconds=time.perf_counter() - decoded
        )
    return replace(examined, faces=[asdict(face) for face in found], detect_seconds=time.perf_counter() - decoded)


ExaminePictures = Callable[[Sequence[bytes | memoryview]], list[ExaminedPicture]]
"""Examines pictures, in order."""


# Formats whose headers Pillow reads with Python code, which cannot end the process.
_HARMLESS_HEADERS = ("JPEG", "PNG", "GIF")
_KIND_BYTES = 1024


@contextlib.contextmanager
def picture_examiner(ingest: IngestOptions, faces: FaceOptions, *, isolated: bool = False) -> Iterator[ExaminePictures]:
    """Yield `examine_one` for many pictures. With `isolated` it runs in a child process that ends with the body.

    If nothing is decoded, only pictures whose headers are read by native code go to the child process. A picture that
    ends the child is examined again in another child, without its faces. If it can be decoded, it is a picture with
    uncounted faces. If it ends that child too, its status is ``not_an_image``. The other pictures are not affected.
    """
    examine_with_options = functools.partial(examine_one, ingest=ingest, faces=faces)
    inline = not needs_decoding(ingest, faces)
    if not isolated and not inline:
        yield lambda bodies: [examine_with_options(body) for body in bodies]
        return
    with ChildWorker(
        examine_with_options, functools.partial(_result_after_crash, ingest=ingest, faces=faces), seconds=_SECONDS
    ) as child:

        def examine_safely(body: bytes | memoryview) -> ExaminedPicture:
            kind = detect_format(bytes(body[:_KIND_BYTES])) if inline else None
            return (
                examine_with_options(body)
                if inline and (kind is None or kind in _HARMLESS_HEADERS)
                else child([bytes(body)])[0]
            )

        yield lambda bodies: [examine_safely(body) for body in bodies]


def _result_after_crash(
    body: bytes | memoryview, exit_reason: str, ingest: IngestOptions, faces: FaceOptions
) -> ExaminedPicture:
    if not faces.enabled:
        return _undecodable(body, exit_reason)
    # The perceptual hash makes sure that the picture is decoded.
    decoding, counting = ingest.model_copy(update={"phash": True}), faces.model_copy(update={"enabled": False})
    (examined,) = map_in_child(
        functools.partial(examine_one, ingest=decoding, faces=counting), [body], _undecodable, seconds=_SECONDS
    )
    if examined.picture.status != "ok":
        return examined
    picture = replace(examined.picture, phash=None) if ingest.phash is False else examined.picture
    return replace(examined, picture=picture, error=f"faces not counted: the detector's process ended: {exit_reason}")


def _undecodable(body: bytes | memoryview, exit_reason: str) -> ExaminedPicture:
    error = f"the decoder's process ended: {exit_reason}"
    sha256 = hashlib.sha256(body).hexdigest()
    return ExaminedPicture(
        PictureFacts("not_an_image", error, sha256, len(body), format=detect_format(bytes(body))), error=error
    )


def _file_state(model: str | None) -> tuple[int, int] | None:
    """Return size and time of the last change of the model file, which may change while this process lives."""
    if model is None:
        return None
    status = Path(model).stat()
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=2)
def _detector(options: FaceOptions, _: tuple[int, int] | None) -> FaceDetector:
    return FaceDetector(options)
