"""The perceptual hash: computed from the file, close to its library's hash, and close for reposted pictures."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image

from raypipe.pictures.examine import examine, perceptual_hash
from tests.ingest.files import save

PIXELS = 50_000_000


def test_hash_does_not_depend_on_max_side() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    data = save(Image.fromarray(noise), "JPEG")
    hashes = {examine(data, PIXELS, max_side=side, phash=True)[0].phash for side in (None, 64, 200, 1024)}
    assert len(hashes) == 1


def test_perceptual_hash_is_close_to_imagehash(shared_data: Path) -> None:
    distances = []
    for path in sorted((shared_data / "portraits").glob("*.jpg"))[:40]:
        with Image.open(path) as image:
            mine = perceptual_hash(image)
        theirs = int(str(imagehash.phash(Image.open(path))), 16)
        distances.append((mine ^ theirs).bit_count())
    assert max(distances) <= 6


def test_perceptual_hash_separates_reposts_from_other_pictures(shared_data: Path) -> None:
    paths = sorted((shared_data / "portraits").glob("*.jpg"))[:30]
    originals = [Image.open(path).convert("RGB") for path in paths]
    hashes = [perceptual_hash(Image.open(io.BytesIO(save(image, "PNG")))) for image in originals]
    reposts = [
        perceptual_hash(Image.open(io.BytesIO(save(image.resize((180, 220)), "JPEG", quality=60))))
        for image in originals
    ]
    assert max((a ^ b).bit_count() for a, b in zip(hashes, reposts, strict=True)) <= 8
    assert min((a ^ b).bit_count() for a, b in itertools.combinations(hashes, 2)) > 8
