"""Batches in pieces for devices with little memory, compiled networks, and choices with their reasons."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raypipe.errors import ConfigError, StageError
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.loop.choices import Choice, compile_choice, dtype_choice
from raypipe.train.loop.fit import fit
from raypipe.train.loop.state import EpochResult, LoopOptions
from raypipe.train.networks.configurations import C, D
from tests.train.small import Tiny, draw

TRAIN, VAL = draw(70, 0), draw(9, 1)
OPTIONS = LoopOptions(epochs=2, batch_size=32, learning_rate=0.05, seed=7)


class Narrow(Tiny):
    """A network that runs out of memory, like a GPU, on more than `room` training pictures at a time."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.room:
            raise torch.OutOfMemoryError(f"{len(images)} pictures")
        return super().forward(images)


def train(model: Tiny, said: list[Choice] | None = None, **options: Any) -> list[EpochResult]:
    return fit(
        model,
        D,
        TRAIN,
        VAL,
        replace(OPTIONS, **options),
        preprocessing=TORCHVISION,
        on_choice=None if said is None else said.append,
    )


def assert_same(found: list[EpochResult], expected: list[EpochResult]) -> None:
    np.testing.assert_allclose([r.train_loss for r in found], [r.train_loss for r in expected], rtol=1e-5)
    np.testing.assert_allclose([r.val_loss for r in found], [r.val_loss for r in expected], rtol=1e-5)
    assert [r.train_accuracy for r in found] == [r.train_accuracy for r in expected]


@pytest.mark.parametrize("micro", [1, 5, 31, 64])
def test_micro_batches_equal_whole_batch(micro: int) -> None:
    assert_same(train(Tiny(), micro_batch=micro), train(Tiny()))


@pytest.mark.parametrize(("room", "micro"), [(31, 16), (10, 8), (1, 1)])
def test_batch_is_split_if_memory_is_short(room: int, micro: int) -> None:
    said: list[Choice] = []
    found = train(Narrow(room), said)
    assert_same(found, train(Tiny()))
    last = [choice for choice in said if choice.what == "batch"][-1]
    assert last.value == f"32 pictures, {micro} at a time"


def test_single_picture_out_of_memory_raises_clear_error() -> None:
    with pytest.raises(StageError, match=r"one picture of \(16, 16\) pixels does not fit into the memory of cpu;"):
        train(Narrow(0))


def test_cuda_graphs_and_micro_batches_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"reduce-overhead does not work with batches in pieces \(of 8 pictures\)"):
        train(Tiny(), micro_batch=8, compile="reduce-overhead")


def test_choices_have_reasons() -> None:
    said: list[Choice] = []
    train(Tiny(), said)
    lines = [str(choice) for choice in said]
    assert "optimizer: SGD, fused (one kernel for all weights)" in lines
    assert "training pictures: in main memory (0.00 GB)" in lines
    assert any(line.startswith("compilation: none (") for line in lines)


def test_arithmetic_choice_has_a_reason() -> None:
    assert str(dtype_choice("bfloat16", "cpu")) == "arithmetic: bfloat16 (set by --train.dtype)"
    assert "this CPU" in dtype_choice("auto", "cpu").why
    assert compile_choice("default", True).value == "none"
    assert compile_choice("reduce-overhead", False).value == "reduce-overhead with CUDA graphs"


@pytest.mark.cluster
def test_compiled_network_gives_same_results() -> None:
    short = replace(OPTIONS, epochs=1)
    results = [
        fit(Tiny(), C, TRAIN, VAL, replace(short, compile=mode), preprocessing=TORCHVISION)
        for mode in ("none", "default")
    ]
    np.testing.assert_allclose(results[1][0].train_loss, results[0][0].train_loss, rtol=1e-4)
    np.testing.assert_allclose(results[1][0].val_probabilities, results[0][0].val_probabilities, atol=1e-3)
