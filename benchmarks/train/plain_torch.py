"""The peer on a CPU: the cost of a step and of a feature pass in a plain torch script, written in several ways.

Pictures are decoded and in memory, as for the loop. A step picks a batch, mirrors it at random and normalises it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.train.reference import MEAN, STD, model_of
from raypipe.train.networks.configurations import CONFIGURATIONS


@dataclass(frozen=True)
class Writing:
    """One way to write the script. `update` is SGD's implementation, for a step only. `grad` is how to turn off
    gradients and `batch` the number of pictures at a time, for a pass only.
    """

    dtype: str = "float32"
    layout: str = "channels_last"
    update: str = ""
    grad: str = ""
    batch: int = 0
    compiled: bool = False

    def __str__(self) -> str:
        said = {"batch": f"batch {self.batch}", "compiled": "compiled"}
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(said.get(name, str(value)) for name, value in found.items() if value)

    @property
    def memory_format(self) -> torch.memory_format:
        """The layout as torch's memory format."""
        return torch.channels_last if self.layout == "channels_last" else torch.contiguous_format

    def arithmetic(self) -> AbstractContextManager[object]:
        """Autocast, which is active only if `dtype` is bfloat16."""
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.dtype == "bfloat16")


class PlainStep:
    """Training of all of VGG-16 on uint8 `images` [n, 3, s, s] and `labels` [n]. Each call does one step."""

    def __init__(self, writing: Writing, images: Tensor, labels: Tensor, batch: int) -> None:
        self.writing, self.images, self.labels, self.batch = writing, images, labels, batch
        network = _started(model_of(CONFIGURATIONS["C"], images.shape[-1]))
        self.model = network.to(memory_format=writing.memory_format)  # type: ignore[call-overload]
        how: dict[str, Any] = {writing.update: True} if writing.update in ("fused", "foreach") else {"foreach": False}
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-5, **how)
        self.forward = torch.compile(self.model, dynamic=False) if writing.compiled else self.model

    def __call__(self) -> None:
        rows = torch.randperm(len(self.images))[: self.batch]
        pictures = self.images[rows]
        mirrored = torch.rand(len(rows)).lt(0.5).view(-1, 1, 1, 1)
        inputs = _normalised(torch.where(mirrored, pictures.flip(3), pictures), self.writing)
        with self.writing.arithmetic():
            logits = self.forward(inputs).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), self.labels[rows])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        loss.item()


class PlainPass:
    """Features of all of `images`, uint8 [n, 3, s, s], from VGG-16's convolutions: float32 [n, d]."""

    def __init__(self, writing: Writing, images: Tensor) -> None:
        self.writing, self.images = writing, images
        network = _started(model_of(CONFIGURATIONS["A"], images.shape[-1])[0]).eval()
        network = network.to(memory_format=writing.memory_format)  # type: ignore[call-overload]
        self.forward = torch.compile(network, dynamic=False) if writing.compiled else network

    def __call__(self) -> Tensor:
        without = torch.inference_mode if self.writing.grad == "inference_mode" else torch.no_grad
        found = []
        with without(), self.writing.arithmetic():
            for pictures in self.images.split(self.writing.batch):
                found.append(self.forward(_normalised(pictures, self.writing)).flatten(1).float())
        return torch.cat(found)


def _started(network: nn.Module) -> nn.Module:
    # With torch's default initial weights, 13 layers shrink the signal to numbers that some processors are slow with.
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return network


def _normalised(pictures: Tensor, writing: Writing) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    scaled = pictures.contiguous(memory_format=writing.memory_format).float().div_(255)
    return scaled.sub_(mean).div_(std)
