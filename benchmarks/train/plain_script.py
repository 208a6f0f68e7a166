"""The peer on real pictures: configuration A as a plain torch script. Prints the results as JSON.

It trains a logistic layer on the frozen convolutions of VGG-16. In each epoch, worker processes decode, resize and
mirror every picture, and the convolutions run on it again, as in tutorials. With --features FILE, the convolutions run
once for all seeds, on each picture as it is and mirrored, and the epochs read these features. Order and mirroring are
the same, the numbers too except for rounding, in a fraction of the time.

``python plain_script.py FOLDER WEIGHTS.h5``: FOLDER/{train,val}/CLASS/*.jpg; weights in the format of Keras.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

_before = time.perf_counter()

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision.models import vgg16  # noqa: E402

_imports = time.perf_counter() - _before

MEAN_BGR = torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1)
BLOCKS = (2, 2, 3, 3, 3)


class Pictures(Dataset[tuple[Tensor, float]]):
    """FOLDER/CLASS/*.jpg, sorted. `mirrored` selects the pictures to mirror; it is set for each epoch."""

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        classes = sorted(path.name for path in folder.iterdir())
        self.files = [(path, float(i)) for i, name in enumerate(classes) for path in sorted((folder / name).iterdir())]
        self.mirrored = torch.zeros(len(self.files), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        path, label = self.files[index]
        picture = Image.open(path).convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        rgb = torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)
        bgr = rgb.flip(0) - MEAN_BGR
        return bgr.flip(2) if self.mirrored[index] else bgr, label


def convolutions(weights: Path) -> nn.Module:
    """The convolutions of VGG-16, frozen, with weights from a Keras file."""
    network = vgg16(weights=None, init_weights=False).features
    layers = iter([layer for layer in network if isinstance(layer, nn.Conv2d)])
    with h5py.File(weights, "r") as file:
        for block, n in enumerate(BLOCKS, 1):
            for place in range(1, n + 1):
                name = f"block{block}_conv{place}"
                layer = next(layers)
                layer.weight.data = torch.from_numpy(file[name][f"{name}_W_1:0"][()]).permute(3, 2, 0, 1).contiguous()
                layer.bias.data = torch.from_numpy(file[name][f"{name}_b_1:0"][()])
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


class FromFiles:
    """Features that are computed again from the picture files in each epoch."""

    def __init__(self, network: nn.Module, pictures: Pictures, batch: int, workers: int) -> None:
        self.network, self.pictures, self.batch, self.workers = network, pictures, batch, workers

    def batches(self, order: Tensor, mirrored: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels of all pictures in an order."""
        self.pictures.mirrored = mirrored
        loader = DataLoader(self.pictures, self.batch, sampler=order.tolist(), num_workers=self.workers)
        for images, labels in loader:
            with torch.no_grad():
                features = self.network(images.contiguous(memory_format=torch.channels_last)).flatten(1)
            yield features, labels.float()


class FromFeatures:
    """Features that were computed before: [2, n, d], as they are and mirrored."""

    def __init__(self, features: Tensor, labels: Tensor, batch: int) -> None:
        self.features, self.labels, self.batch = features, labels, batch

    def batches(self, order: Tensor, mirrored: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features and labels of all pictures in an order."""
        for rows in order.split(self.batch):
            yield self.features[mirrored[rows].long(), rows], self.labels[rows]


def cached(file: Path, sources: dict[str, FromFiles], batch: int) -> dict[str, FromFeatures]:
    """Features of both parts from the file. If the file does not exist, they are computed and written to it."""
    if not file.exists():
        found = {}
        for part, source in sources.items():
            n = len(source.pictures)
            passes = []
            for on in (False, True) if part == "train" else (False,):
                passes.append(list(source.batches(torch.arange(n), torch.full((n,), on))))
            found[part] = torch.stack([torch.cat([features for features, _ in one]) for one in passes])
            found[f"{part}_labels"] = torch.cat([labels for _, labels in passes[0]])
        torch.save(found, file)
    kept = torch.load(file, weights_only=True)
    return {part: FromFeatures(kept[part], kept[f"{part}_labels"], batch) for part in sources}


def main() -> None:
    """Train, validate after each epoch, and print the results."""
    given = _arguments()
    started = time.perf_counter()
    network = convolutions(given.weights)
    pictures = {part: Pictures(given.folder / part, given.size) for part in ("train", "val")}
    files = {part: FromFiles(network, one, given.batch, given.workers) for part, one in pictures.items()}
    sources = cached(given.features, files, given.batch) if given.features else files
    ready = time.perf_counter() - started
    rng = torch.Generator().manual_seed(given.seed)
    layer = nn.Linear(512 * (given.size // 32) ** 2, 1)
    nn.init.xavier_uniform_(layer.weight, generator=rng)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.001)
    n, n_val = len(pictures["train"]), len(pictures["val"])
    epochs = []
    for _ in range(given.epochs):
        order, mirrored = torch.randperm(n, generator=rng), torch.rand(n, generator=rng) < 0.5
        total = 0.0
        for features, labels in sources["train"].batches(order, mirrored):
            loss = nn.functional.binary_cross_entropy_with_logits(layer(features).squeeze(1), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(labels)
        right = 0
        with torch.no_grad():
            for features, labels in sources["val"].batches(torch.arange(n_val), torch.zeros(n_val, dtype=torch.bool)):
                right += int(((layer(features).squeeze(1) > 0) == (labels > 0.5)).sum())
        epochs.append({"train_loss": total / n, "val_accuracy": right / n_val})
    seconds = time.perf_counter() - started
    said = {"seed": given.seed, "train": n, "val": n_val, "seconds": seconds, "before_training_s": ready}
    print(json.dumps({**said, "import_s": _imports, "epochs": epochs}))


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser()
    made.add_argument("folder", type=Path)
    made.add_argument("weights", type=Path)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--size", type=int, default=224)
    made.add_argument("--epochs", type=int, default=12)
    made.add_argument("--batch", type=int, default=32)
    made.add_argument("--workers", type=int, default=2)
    made.add_argument("--features", type=Path, help="file of features, created if it does not exist")
    return made.parse_args()


if __name__ == "__main__":
    main()
