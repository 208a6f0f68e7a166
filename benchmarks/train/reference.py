"""The peer: torchvision's reference recipe for classification, on the same pictures in memory.

It follows ``references/classification/train.py``: a DataLoader whose worker processes transform picture by picture on
the CPU, pinned batches, SGD, autocast, channels last, and cuDNN's search for the fastest kernels. As for raypipe, the
pictures are already decoded.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import vgg16
from torchvision.transforms import v2

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """uint8 [n, 3, s, s] and labels [n]. Each picture is flipped at random and normalised when it is read."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        steps = [v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        self.transform = v2.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def model_of(configuration: Any, size: int) -> Any:
    """VGG-16 with one output: all of it if the configuration is full, else the convolutions and a linear layer.

    Its first linear layer fits pictures of `size` pixels, as raypipe's fresh layer does.
    """
    network = vgg16(weights=None, init_weights=False)
    n_features = 512 * (size // 32) ** 2
    if configuration.full:
        network.avgpool = nn.Identity()
        network.classifier[0] = nn.Linear(n_features, 4096)
        network.classifier[6] = nn.Linear(4096, 1)
        for place in (2, 5):
            network.classifier[place] = nn.Dropout(configuration.dropout) if configuration.dropout else nn.Identity()
        return network
    network.features.requires_grad_(not configuration.frozen)
    return nn.Sequential(network.features, nn.Flatten(), nn.Linear(n_features, 1))


def seconds_of_epoch(
    configuration: Any, images: Tensor, labels: Tensor, batch: int, device: str, dtype: str, workers: int
) -> float:
    """Seconds of the second of two training epochs. The first one warms up."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        return _seconds(configuration, images, labels, batch, device, dtype, workers)
    finally:
        torch.backends.cudnn.benchmark = before


def _seconds(
    configuration: Any, images: Tensor, labels: Tensor, batch: int, device: str, dtype: str, workers: int
) -> float:
    model = model_of(configuration, images.shape[-1]).to(device, memory_format=torch.channels_last)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=configuration.momentum)
    loader = DataLoader(
        Pictures(images, labels),
        batch_size=batch,
        shuffle=True,
        num_workers=workers,
        pin_memory=device.startswith("cuda"),
        persistent_workers=workers > 0,
    )
    loss_of = nn.BCEWithLogitsLoss()
    enabled = dtype == "bfloat16"
    seconds = 0.0
    for _ in range(2):
        started = time.perf_counter()
        for pictures, truth in loader:
            pictures = pictures.to(device, memory_format=torch.channels_last, non_blocking=True)
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled):
                loss = loss_of(model(pictures).squeeze(1).float(), truth.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        loss.item()
        seconds = time.perf_counter() - started
    return seconds
