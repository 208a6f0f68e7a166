"""Pictures to serve, each with different bytes, and the posts that name them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raypipe.world.draw import draw_picture, encode_jpeg

_A_FOLDER = 1000
_BASES = 200
_SIZE = (640, 480)
_ROOM_LEFT = 3.0


def photos(folder: Path, count: int, n_bytes: int = 45_000) -> Path:
    """Make `count` JPEGs of 640x480 pixels and about `n_bytes` (± 10 %). Returns their folder, `folder`/fetch.

    200 pictures differ in their pixels. All files differ in their bytes, by a comment segment with the number. Existing
    pictures are used again. Raises OSError if the disk has no room for them and for the output made from them.
    """
    return _made(folder / "fetch", {"count": count, "n_bytes": n_bytes}, count * n_bytes, _noisy(count, n_bytes))


def faces(folder: Path, count: int) -> Path:
    """Draw `count` different photos of 640 pixels on the long side, with 0 to 4 faces each. Returns their folder."""
    return _made(folder / "faces", {"count": count, "side": 640}, count * 100_000, _drawn(count))


def path_of(number: int) -> str:
    """A picture's path below its folder. Its address has the same path."""
    return f"{number // _A_FOLDER:03d}/{number:06d}.jpg"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every picture, by path."""
    table = pq.read_table(folder / "_digests.parquet")
    return dict(zip(table["path"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def write_posts(path: Path, post_ids: Sequence[str], urls: Sequence[str]) -> Path:
    """Write a Parquet file of posts that raypipe and img2dataset can both read. Returns `path`."""
    n = len(urls)
    columns = {"post_id": post_ids, "image_url": urls, "likes": [1] * n, "followers": [1] * n, "n_hashtags": [0] * n}
    pq.write_table(pa.table(columns), path)
    return path


def need_room(folder: Path, n_bytes: float) -> None:
    """Raise OSError if the disk of `folder` has less than `n_bytes` free."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OSError(f"{folder}: {free / 1e9:.1f} GB are free, {n_bytes / 1e9:.1f} GB are needed; set another --work")


def _made(folder: Path, what: dict[str, int], n_bytes: int, pictures: Iterator[bytes]) -> Path:
    note = folder / "_made.json"
    if note.exists() and json.loads(note.read_text()) == what:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    need_room(folder, n_bytes * _ROOM_LEFT)
    found: dict[str, list[str]] = {"path": [], "sha256": []}
    for number, data in enumerate(pictures):
        path = folder / path_of(number)
        if number % _A_FOLDER == 0:
            path.parent.mkdir()
        path.write_bytes(data)
        found["path"].append(path_of(number))
        found["sha256"].append(hashlib.sha256(data).hexdigest())
    pq.write_table(pa.table(found), folder / "_digests.parquet")
    note.write_text(json.dumps(what))
    return folder


def with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture with a comment segment (ITU-T T.81, B.2.4.5) after its JFIF header."""
    comment = text.encode()
    start = 2 + 2 + struct.unpack(">H", jpeg[4:6])[0]
    return jpeg[:start] + b"\xff\xfe" + struct.pack(">H", len(comment) + 2) + comment + jpeg[start:]


def _noisy(count: int, n_bytes: int) -> Iterator[bytes]:
    rng = np.random.default_rng(0)
    sizes = np.clip(rng.normal(n_bytes, n_bytes / 10, min(count, _BASES)), n_bytes * 0.7, n_bytes * 1.3)
    bases = [_of_size(rng, int(size)) for size in sizes]
    for number in range(count):
        yield with_comment(bases[number % len(bases)], f"picture {number}")


def _of_size(rng: np.random.Generator, n_bytes: int) -> bytes:
    """A noisy picture as JPEG, in the best quality that gives at most `n_bytes`."""
    coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
    noisy = smooth + rng.normal(0, 8, smooth.shape).astype(np.float32)
    picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    low, high = 5, 95
    best = _jpeg(picture, low)
    while low < high:
        middle = (low + high + 1) // 2
        data = _jpeg(picture, middle)
        low, high, best = (middle, high, data) if len(data) <= n_bytes else (low, middle - 1, best)
    return best


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def _drawn(count: int) -> Iterator[bytes]:
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(_draw, range(count), chunksize=8)


def _draw(number: int) -> bytes:
    rng = np.random.default_rng([1, number])
    size = ((640, 640), (640, 480), (480, 640))[int(rng.integers(3))]
    n_faces = int(rng.choice(5, p=[0.3, 0.4, 0.15, 0.1, 0.05]))
    return encode_jpeg(draw_picture(rng, n_faces=n_faces, look=float(rng.normal()), size=size), rng)
