"""Training on pictures streamed by Ray Data equals training on pictures in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raypipe import tables
from raypipe.config import Config
from raypipe.storage import Storage
from raypipe.train import sweep
from raypipe.train.data.images import image_set
from raypipe.train.data.npy_rows import NpyRows, to_npy
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.loop.fit import fit
from raypipe.train.loop.state import LoopOptions
from raypipe.train.networks.configurations import D
from raypipe.train.trials.ray_stream import StreamedRows
from tests.train.small import Tiny, draw
from tests.training_root import change

pytestmark = pytest.mark.usefixtures("ray_session")
TRAIN, VAL = draw(37, 0), draw(9, 1)


def streamed(folder: Path) -> StreamedRows:
    """The training pictures in two files."""
    storage, pixels = Storage(str(folder)), TRAIN.images[:].numpy()
    for number, part in enumerate((pixels[:20], pixels[20:])):
        storage.write(f"rows/{number}.npy", to_npy(part))
    rows = np.arange(len(TRAIN))
    shard = (rows >= 20).astype(np.int64)
    return StreamedRows(NpyRows(storage, "rows", ("0.npy", "1.npy"), shard, rows - 20 * shard, (3, 16, 16)))


def test_streamed_losses_equal_losses_in_memory(tmp_path: Path) -> None:
    source = streamed(tmp_path)
    assert source.shape == (37, 3, 16, 16)
    assert torch.equal(source[3:5], TRAIN.images[3:5])
    options = LoopOptions(epochs=2, batch_size=8, learning_rate=0.05, seed=7)
    results = [
        fit(Tiny(), D, image_set(images, TRAIN.labels.numpy(), TRAIN.post_ids), VAL, options, preprocessing=TORCHVISION)
        for images in (source, TRAIN.images)
    ]
    assert [row.train_loss for row in results[0]] == [row.train_loss for row in results[1]]
    assert [row.val_loss for row in results[0]] == [row.val_loss for row in results[1]]


@pytest.mark.cluster
def test_worker_holding_all_cpus_can_stream(training: Config) -> None:
    storage = training.open_storage()
    found = []
    for name in ("local", "stream"):
        sweep.run_train(change(training, train={"config": "B", "name": name, "pictures": name}))
        table = tables.read_table(storage, f"train/{name}", ["post_id", "probability"], folder="predictions")
        found.append(table.sort_by("post_id"))
    assert found[0].equals(found[1])
