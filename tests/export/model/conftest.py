"""A small root with labels by the real regression and a trained model, and untrained models of all heads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

import raypipe
from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.predict.model import TrainedModel
from raypipe.tables.schemas import IMAGES, POSTS
from raypipe.train.data.preprocessing import CAFFE_BGR, Preprocessing
from raypipe.train.networks.build import Classifier
from raypipe.train.networks.configurations import B
from raypipe.train.networks.heads import Head, ScoreHead, make_head
from tests.train.here import train_here
from tests.train.small import TARGETS
from tests.training_root import jpeg

SIDES = ("train", "train", "val", "test")
N = 60


def write_root(root: Path, **label: object) -> Config:
    """60 posts, 48 of them labelled. Bright pictures get more likes than reach explains. One picture is invalid."""
    config = load_config(
        root=str(root),
        ray={"dashboard": False, "num_cpus": 2},
        label={"quantile": 0.4, "split": "part", **label},
        train={"weights": "random", "image_size": 32, "epochs": 3, "learning_rate": 0.01, "dtype": "float32"},
    )
    storage, rng = config.open_storage(), np.random.default_rng(3)
    posts, images = [], []
    for i in range(N):
        followers, bright = int(rng.integers(10, 10_000)), i % 2
        likes = int(10 ** (0.5 * np.log10(1 + followers) + 0.6 * bright + rng.normal(0, 0.1)))
        posts.append(
            {
                "post_id": f"p{i:03d}", "image_url": "http://host/x.jpg", "user_id": f"u{i % 50}", "likes": likes,
                "followers": followers, "n_hashtags": i % 5, "deleted": False, "part": SIDES[i // 2 % 4],
                "caption": " ".join(["#sun"] * bright + ["#sea"] * (i % 3 == 0)),
                "created_at": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=i),
            }
        )  # fmt: skip
        data = jpeg(rng, 190 if bright else 70) if i != 4 else b"no picture"
        images.append(
            {
                "post_id": f"p{i:03d}", "url": "http://host/x.jpg", "status": "ok", "attempts": 1, "image": data,
                "n_bytes": len(data), "n_faces": 1,
            }
        )  # fmt: skip
    for table, rows, schema in (
        ("posts", posts, POSTS.append(pa.field("part", pa.string()))),
        ("images", images, IMAGES),
    ):
        with tables.begin(storage, table, command="ingest", config={}, inputs={}) as run:
            run.writer.write("00000", pa.Table.from_pylist(rows, schema=schema))
            run.commit(rows_in=N)
    raypipe.label(config)
    return config


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The root with configuration A trained and a sweep of two seeds. Tests write only to `export/`."""
    config = write_root(tmp_path_factory.mktemp("trained") / "root")
    train_here(config, "train/A", 1)
    train_here(config, "sweep", 2)
    return config


@pytest.fixture(scope="session")
def exported(trained: Config) -> Path:
    """The folder of a complete export."""
    raypipe.export(exporting(trained))
    return Path(trained.root) / "export" / "model"


def exporting(config: Config, *, overwrite: bool = False, **options: object) -> Config:
    """The options for exporting train/A."""
    export = {"format": "model", "model": "train/A", **options}
    return Config.model_validate(config.model_dump() | {"export": export, "overwrite": overwrite})


def small_model(kind: str, preprocessing: Preprocessing = CAFFE_BGR, size: int = 16) -> TrainedModel:
    """A network of two convolutions with a head, for pictures of 16 pixels."""
    target = TARGETS[kind]
    head: Head = ScoreHead(target, 3.0, 2.0) if kind == "score" else make_head(target, torch.zeros(1))
    with torch.random.fork_rng():
        torch.manual_seed(len(kind))
        body = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        network = Classifier(body, 32, B, target.n_outputs)
    return TrainedModel(network.eval(), "B", size, head, preprocessing)
