"""A small root with labels and pictures of two learnable classes: bright and dark."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.tables.schemas import IMAGES, LABEL_TYPES, labels_schema

SPLITS = ["train"] * 24 + ["val"] * 8 + ["test"] * 8


def jpeg(rng: np.random.Generator, brightness: int) -> bytes:
    """A noisy picture of 48 × 40 pixels with mean `brightness`."""
    pixels = np.clip(rng.normal(brightness, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def write_images(config: Config, images: dict[str, bytes | None], files: int = 2) -> None:
    """Write `images/` as ingest does, in `files` files."""
    with tables.begin(config.open_storage(), "images", command="ingest", config={}, inputs={}) as run:
        ids = list(images)
        for unit in range(files):
            rows = [
                {
                    "post_id": post_id,
                    "url": "http://host/x.jpg",
                    "status": "ok",
                    "attempts": 1,
                    "image": images[post_id],
                }
                for post_id in ids[unit::files]
            ]
            run.writer.write(f"{unit:05d}", pa.Table.from_pylist(rows, schema=IMAGES))
        run.commit(rows_in=len(ids))


def write_labels(config: Config, rows: list[dict[str, object]], kind: str = "class", hashtags: str = "") -> None:
    """Write `labels/` as label does."""
    options = {"label": {"hashtags": hashtags.split()}}
    with tables.begin(
        config.open_storage(), "labels", command="label", config=options, inputs={}, overwrite=True
    ) as run:
        run.writer.write("00000", pa.Table.from_pylist(rows, schema=labels_schema(LABEL_TYPES[kind])))
        run.commit(rows_in=len(rows))


def change(config: Config, **sections: dict[str, object]) -> Config:
    """The configuration with some options of its sections changed."""
    values = config.model_dump()
    for name, options in sections.items():
        values[name] = {**values[name], **options} if isinstance(options, dict) else options
    return Config.model_validate(values)


@pytest.fixture
def training(tmp_path: Path) -> Config:
    """Options for a root of 40 labelled pictures and 4 unlabelled ones: 24 train, 8 val, 8 test."""
    config = load_config(
        root=str(tmp_path / "root"),
        storage={"scratch": str(tmp_path / "scratch")},
        ray={"dashboard": False, "num_cpus": 2},
        train={"weights": "random", "image_size": 32, "epochs": 2, "learning_rate": 0.01, "dtype": "float32"},
    )
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    images: dict[str, bytes | None] = {}
    for i, split in enumerate(SPLITS):
        label = ("bottom", "top")[i % 2]
        rows.append({"post_id": f"p{i:03d}", "label": label, "split": split})
        images[f"p{i:03d}"] = jpeg(rng, 190 if label == "top" else 70)
    for i in range(4):
        rows.append({"post_id": f"u{i}", "label": None, "split": None})
        images[f"u{i}"] = jpeg(rng, 128)
    write_images(config, images)
    write_labels(config, rows)
    return config


def relabel(config: Config, head: str) -> None:
    """Write labels for `head` over the same pictures. Odd pictures are bright and even ones dark."""
    labels = {
        "binary": lambda i: ("bottom", "top")[i % 2],
        "classes": lambda i: "dark" if i % 2 == 0 else ("bright", "brilliant")[i // 2 % 2],
        "tags": lambda i: [tag for tag, on in (("Sun", i % 2), ("sea", i % 3 == 0)) if on],
        "score": lambda i: 3.0 + 2.0 * (i % 2) + 0.01 * i,
    }[head]
    kind = {"tags": "hashtags", "score": "continuous"}.get(head, "class")
    rows: list[dict[str, object]] = [
        {"post_id": f"p{i:03d}", "label": labels(i), "split": split} for i, split in enumerate(SPLITS)
    ]
    unlabelled: list[dict[str, object]] = [{"post_id": f"u{i}", "label": None, "split": None} for i in range(4)]
    write_labels(config, [*rows, *unlabelled], kind, hashtags="#Sun sea")
