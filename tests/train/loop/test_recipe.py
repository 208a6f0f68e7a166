"""The modern recipe: each part compared with plain torch, and equal results after an interruption."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from raypipe.train.data.images import prepare_batch
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.data.target import BINARY
from raypipe.train.loop.fit import fit
from raypipe.train.loop.random_draws import epoch_crops, epoch_flips, epoch_order
from raypipe.train.loop.recipe import MODERN, PAPER, RECIPES, WeightAverage
from raypipe.train.loop.state import EpochResult, LoopOptions, LoopState
from raypipe.train.networks.configurations import A, C, D
from raypipe.train.networks.heads import BinaryHead, ClassesHead, ScoreHead
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights
from tests.train.small import TARGETS, Tiny, draw

TRAIN, VAL = draw(70, 0), draw(31, 1)
OPTIONS = LoopOptions(epochs=3, batch_size=16, learning_rate=0.01, seed=7, recipe=MODERN)


def train(model: Tiny, options: LoopOptions = OPTIONS, **more: object) -> list[EpochResult]:
    return fit(model, C, TRAIN, VAL, options, preprocessing=TORCHVISION, **more)  # type: ignore[arg-type]


def numbers(results: list[EpochResult]) -> list[tuple[float, ...]]:
    return [(r.epoch, r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy) for r in results]  # type: ignore[misc]


def test_modern_recipe_learns_with_and_without_crops() -> None:
    for crop in (None, 0.6):
        options = replace(OPTIONS, epochs=12, recipe=replace(MODERN, crop=crop, average=0.9))
        assert train(Tiny(), options)[-1].val_accuracy >= 0.85  # type: ignore[operator]


def test_paper_learning_rate_is_constant() -> None:
    assert {PAPER.rate(step, 100) for step in range(100)} == {1.0}
    assert set(RECIPES) == {"paper", "modern"}


@given(steps=st.integers(1, 500))
def test_learning_rate_rises_then_falls_and_stays_positive(steps: int) -> None:
    rates = [MODERN.rate(step, steps) for step in range(steps)]
    first = max(1, round(0.05 * steps))
    assert rates[first - 1] == 1.0
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: first - 1] == sorted(rates[: first - 1])
    assert rates[first - 1 :] == sorted(rates[first - 1 :], reverse=True)
    if steps > first:
        middle = first + (steps - first) // 2
        assert rates[middle] == pytest.approx(0.5 * (1 + math.cos(math.pi * (middle - first) / (steps - first))))


def test_one_epoch_equals_plain_torch() -> None:
    ours, theirs = Tiny(), Tiny()
    result = train(ours, replace(OPTIONS, epochs=1, recipe=replace(MODERN, average=None, crop=None)))[0]
    matrices = [p for p in theirs.parameters() if p.dim() > 1]
    biases = [p for p in theirs.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": biases, "weight_decay": 0.0}], weight_decay=0.05)
    order, flips = epoch_order(70, 7, 1), epoch_flips(70, 7, 1)
    inputs = prepare_batch(TRAIN.images, TORCHVISION, torch.from_numpy(flips))
    losses = 0.0
    for step, begin in enumerate(range(0, 70, 16)):
        rows = torch.from_numpy(order[begin : begin + 16])
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * (step - 1) / 4)) if step else 0.01
        targets = torch.where(TRAIN.labels[rows] > 0.5, 0.95, 0.05)
        loss = F.binary_cross_entropy_with_logits(theirs(inputs[rows]), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(rows)
    assert result.train_loss == pytest.approx(losses / 70, rel=1e-5)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-5)


def test_label_smoothing_equals_torch() -> None:
    outputs, labels = torch.randn(9, 3), torch.arange(9) % 3
    head = ClassesHead(TARGETS["classes"])
    expected = F.cross_entropy(outputs, labels, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(head.losses(outputs, head.smooth_targets(labels, 0.1)), expected)
    assert head.smooth_targets(labels, 0.0) is labels
    truth = torch.tensor([0.0, 1.0])
    torch.testing.assert_close(BinaryHead(BINARY).smooth_targets(truth, 0.1), torch.tensor([0.05, 0.95]))
    assert ScoreHead(TARGETS["score"], 0.0, 1.0).smooth_targets(truth, 0.1) is truth


@given(n=st.integers(1, 200), seed=st.integers(0, 99), epoch=st.integers(1, 99), smallest=st.floats(0.05, 1))
def test_crops_lie_within_the_picture(n: int, seed: int, epoch: int, smallest: float) -> None:
    found = epoch_crops(n, seed, epoch, smallest)
    side, centre = found[:, 0], found[:, 1:]
    assert found.shape == (n, 3)
    assert (side >= math.sqrt(smallest) - 1e-6).all()
    assert (np.abs(centre) + side[:, None] <= 1 + 1e-6).all()
    np.testing.assert_array_equal(found, epoch_crops(n, seed, epoch, smallest))


def test_crop_equals_slicing_and_resizing() -> None:
    pictures = draw(2, 3, size=32).images
    whole = prepare_batch(pictures, TORCHVISION)
    same = prepare_batch(pictures, TORCHVISION, crops=torch.tensor([[1.0, 0, 0]] * 2))
    torch.testing.assert_close(same, whole, rtol=1e-4, atol=1e-4)
    # The upper right quarter.
    quarter = prepare_batch(pictures, TORCHVISION, crops=torch.tensor([[0.5, 0.5, -0.5]] * 2))
    expected = F.interpolate(whole[:, :, :16, 16:], size=(32, 32), mode="bilinear", align_corners=False)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(quarter[inside], expected[inside], rtol=1e-4, atol=1e-4)


def test_validation_uses_averaged_weights() -> None:
    states: list[LoopState] = []

    def keep(_: EpochResult, state: LoopState) -> bool:
        states.append(state)
        return False

    model = Tiny()
    last = train(model, on_epoch=keep)[-1]
    average = {name: value.clone() for name, value in states[-1].weights.items()}
    assert any(not torch.equal(average[name], value) for name, value in model.state_dict().items())
    judged = Tiny()
    judged.load_state_dict(average)
    judged.eval()
    with torch.no_grad():
        found = judged(prepare_batch(VAL.images, TORCHVISION)).sigmoid().numpy()
    np.testing.assert_allclose(last.val_probabilities, found, rtol=1e-5)


def test_weight_average_follows_definition_and_swaps_back() -> None:
    model = Tiny()
    kept = WeightAverage(model, 0.5)
    weight = model.logit.weight
    expected = weight.detach().clone()
    for step in range(1, 8):
        with torch.no_grad():
            weight.add_(1.0)
        kept.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight.detach()
    live = weight.detach().clone()
    kept.swap()
    torch.testing.assert_close(weight.detach(), expected)
    kept.swap()
    assert torch.equal(weight.detach(), live)


@pytest.mark.parametrize("interrupted_after", [1, 2])
def test_resumed_training_equals_uninterrupted(tmp_path: Path, interrupted_after: int) -> None:
    whole_model, model, resumed = Tiny(dropout=0.3), Tiny(dropout=0.3), Tiny(seed=99, dropout=0.3)
    whole = train(whole_model)

    def interrupt(result: EpochResult, state: LoopState) -> bool:
        state.save(tmp_path / "state")
        return result.epoch == interrupted_after

    before = train(model, on_epoch=interrupt)
    after = train(resumed, start=LoopState.load(tmp_path / "state"))
    assert numbers(before) + numbers(after) == numbers(whole)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole_model.parameters(), strict=True))


def test_modern_optimizer_excludes_frozen_weights_and_paper_uses_sgd() -> None:
    model = build_vgg(A, image_size=32, weights=load_weights("random"), seed=0)
    optimizer = MODERN.optimizer(model, A, 0.001, fused=False)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    assert isinstance(PAPER.optimizer(model, D, 0.001, fused=False), torch.optim.SGD)
