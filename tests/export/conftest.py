"""A root with difficult post ids, labels and pictures, and the expected content of its export."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.tables.schemas import IMAGES, LABEL_TYPES, labels_schema

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}
AWKWARD_IDS = (
    "../../x",
    "/etc/passwd",
    "a.b.c",
    "CON",
    "Ab",
    "aB",
    "ab",
    "~41b",
    "日本",
    " ",
    "-rf",
    "_hidden",
    "x" * 300,
)
LABELS = ("..", "top", "Top", "a/b", "bottom")
FACES = [{"left": 1, "top": 2, "right": 9, "bottom": 8, "score": 0.5}]


@dataclass(frozen=True)
class Row:
    """Expected content of an export for one post."""

    post_id: str
    extension: str
    image: bytes
    label: Any
    split: str
    score: float | None

    @property
    def faces(self) -> list[dict[str, Any]] | None:
        return FACES if len(self.image) % 2 else None

    def metadata_dict(self) -> dict[str, Any]:
        """The metadata stored next to the picture."""
        return {
            "post_id": self.post_id,
            "label": self.label,
            "score": self.score,
            "split": self.split,
            "width": 32,
            "height": 24,
            "n_faces": 1 if self.faces else None,
            "faces": self.faces,
        }


@dataclass(frozen=True)
class Made:
    """Options for a root, and its exportable posts."""

    config: Config
    rows: dict[str, Row]
    dropped: dict[str, int]

    @property
    def rows_in(self) -> int:
        return len(self.rows) + sum(self.dropped.values())

    def split(self, name: str) -> dict[str, Row]:
        """Exportable posts of a split, by post_id."""
        return {row.post_id: row for row in self.rows.values() if row.split == name}

    def exporting(self, format: str, *, overwrite: bool = False, **options: Any) -> Config:
        """The options for exporting this root."""
        changed = {"export": {"format": format, **options}, "overwrite": overwrite}
        return Config.model_validate(self.config.model_dump() | changed)

    def folder(self, name: str) -> Path:
        """The folder of a local export."""
        return Path(self.config.root) / "export" / name


def picture(rng: np.random.Generator, kind: str, side: int = 24) -> bytes:
    """A picture of noise, so that no two pictures have the same bytes."""
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)).save(out, kind)
    return out.getvalue()


def image_row(post_id: str, data: bytes | None, kind: str | None = "JPEG", status: str = "ok") -> dict[str, Any]:
    """A row of images/ as ingest writes it."""
    row: dict[str, Any] = {"post_id": post_id, "url": "http://h/x", "status": status, "attempts": 1}
    if data is not None:
        row |= {"image": data, "n_bytes": len(data), "format": kind, "width": 32, "height": 24}
        row |= {"n_faces": 1, "faces": FACES} if len(data) % 2 else {}
    return row


def write_images(config: Config, rows: list[dict[str, Any]], files: int = 3) -> None:
    """Write `images/` in `files` files and replace the old table."""
    with tables.begin(
        config.open_storage(), "images", command="ingest", config={"n": len(rows)}, inputs={}, overwrite=True
    ) as run:
        for unit in range(files):
            run.writer.write(f"{unit:05d}", pa.Table.from_pylist(rows[unit::files], schema=IMAGES))
        run.commit(rows_in=len(rows))


def write_labels(config: Config, rows: list[dict[str, Any]], kind: str = "class") -> None:
    """Write `labels/` with labels of `kind` and replace the old table."""
    with tables.begin(config.open_storage(), "labels", command="label", config={}, inputs={}, overwrite=True) as labels:
        labels.writer.write("00000", pa.Table.from_pylist(rows, schema=labels_schema(LABEL_TYPES[kind])))
        labels.commit(rows_in=len(rows))


def make_label(kind: str, i: int) -> Any:
    """The label of post number `i`."""
    return {"class": LABELS[i % len(LABELS)], "continuous": i / 7, "hashtags": ["a", "b c"][: i % 3]}[kind]


def build(config: Config, kind: str | None, n: int = 60, side: int = 24, formats: Sequence[str] = (*FORMATS,)) -> Made:
    """Build a root with every reason to drop a post. `kind` is the kind of labels or None. Deterministic."""
    rng = np.random.default_rng(5)
    images: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    rows: dict[str, Row] = {}
    for i, post_id in enumerate([*AWKWARD_IDS, *(f"p{i:03d}" for i in range(n))]):
        extension = formats[i % len(formats)]
        data = picture(rng, FORMATS[extension], side)
        split = ("train", "train", "val", "test")[i // len(LABELS) % 4] if kind else "train"
        # The score is null for schemes without a regression.
        score = None if kind is None or i % 5 == 4 else i / 3
        rows[post_id] = Row(post_id, extension, data, make_label(kind, i) if kind else None, split, score)
        images.append(image_row(post_id, data, FORMATS[extension]))
        labels.append({"post_id": post_id, "label": rows[post_id].label, "split": split, "score": score})
    dropped = {"gone": 3, "timeout": 2, "no_bytes": 1}
    images += [image_row(f"gone{i}", None, status="gone") for i in range(3)]
    images += [image_row(f"slow{i}", None, status="timeout") for i in range(2)]
    images.append(image_row("imageless", None))
    if kind:
        images += [image_row(name, picture(rng, "JPEG")) for name in ("unknown", "middle", "nowhere")]
        some = make_label(kind, 1)
        labels.append({"post_id": "gone0", "label": some, "split": "train"})
        labels.append({"post_id": "middle", "label": None, "split": None})
        labels.append({"post_id": "nowhere", "label": some, "split": None})
        labels.append({"post_id": "never", "label": some, "split": "train"})
        dropped |= {"not_in_labels": 1, "no_label": 1, "no_split": 1, "not_in_images": 1}
        write_labels(config, labels, kind)
    order = rng.permutation(len(images))
    write_images(config, [images[i] for i in order])
    return Made(config, rows, dropped)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Made]:
    """Return a function that builds a local root with labels of a kind or without labels."""

    def made(kind: str | None = "class", **options: Any) -> Made:
        return build(load_config(root=str(tmp_path / "root")), kind, **options)

    return made


@pytest.fixture(scope="session")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The package `datasets`, imported offline, with its caches in a temporary folder."""
    cache = tmp_path_factory.mktemp("huggingface")
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(cache), HF_HUB_DISABLE_TELEMETRY="1")
    import datasets

    assert datasets.config.HF_HUB_OFFLINE
    assert str(datasets.config.HF_DATASETS_CACHE).startswith(str(cache))
    datasets.disable_progress_bars()
    return datasets
