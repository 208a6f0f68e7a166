import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from raypipe.errors import ConfigError, InputError, StageError
from raypipe.train.data.images import ImageSet, image_set, prepare_batch
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.loop.fit import fit, predict
from raypipe.train.loop.random_draws import epoch_flips, epoch_order
from raypipe.train.loop.state import EpochResult, LoopOptions, LoopState
from raypipe.train.metrics import binary_accuracy
from raypipe.train.networks.configurations import A, B, D
from raypipe.train.networks.initial_weights import unit_variance_init
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights
from tests.train.small import Tiny, draw

TRAIN, VAL = draw(70, 0), draw(31, 1)
OPTIONS = LoopOptions(epochs=4, batch_size=16, learning_rate=0.05, seed=7)


def train(model: Tiny, options: LoopOptions = OPTIONS, **more: object) -> list[EpochResult]:
    return fit(model, D, TRAIN, VAL, options, preprocessing=TORCHVISION, **more)  # type: ignore[arg-type]


def numbers(results: list[EpochResult]) -> list[tuple[float, ...]]:
    return [(r.epoch, r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy) for r in results]


def test_training_reaches_high_accuracy() -> None:
    results = train(Tiny(), replace(OPTIONS, epochs=12))
    assert results[-1].val_accuracy >= 0.9
    assert results[-1].train_loss < results[0].train_loss
    assert [r.epoch for r in results] == list(range(1, 13))


@pytest.mark.usefixtures("two_threads")
def test_same_seed_gives_identical_results() -> None:
    first, second = train(Tiny(dropout=0.3)), train(Tiny(dropout=0.3))
    assert numbers(first) == numbers(second)
    assert first[-1].val_probabilities.tobytes() == second[-1].val_probabilities.tobytes()
    assert numbers(train(Tiny(dropout=0.3), replace(OPTIONS, seed=8))) != numbers(first)


@pytest.mark.usefixtures("two_threads")
def test_vgg_in_bfloat16_is_deterministic() -> None:
    # Few pictures, because many processors emulate bfloat16.
    pictures = draw(4, 0, size=32)
    options = replace(OPTIONS, epochs=1, batch_size=2, dtype="bfloat16", learning_rate=0.001)

    def run() -> list[tuple[float, ...]]:
        model = build_vgg(B, image_size=32, weights=load_weights("random"), seed=0)
        unit_variance_init(model, prepare_batch(pictures.images, TORCHVISION))
        return numbers(fit(model, B, pictures, draw(2, 1, size=32), options, preprocessing=TORCHVISION))

    assert run() == run()


def test_training_is_independent_of_global_random_state() -> None:
    undisturbed = numbers(train(Tiny(dropout=0.3)))
    torch.manual_seed(1)
    disturbed = numbers(train(Tiny(dropout=0.3), on_batch=lambda *_: None, on_epoch=lambda *_: bool(torch.rand(1) > 2)))
    assert disturbed == undisturbed
    torch.manual_seed(1)
    expected = torch.rand(5)[4]
    torch.manual_seed(1)
    train(Tiny(dropout=0.3), on_epoch=lambda *_: bool(torch.rand(1) > 2))
    assert torch.equal(torch.rand(1)[0], expected)


def test_one_epoch_equals_plain_torch() -> None:
    ours, theirs = Tiny(), Tiny()
    result = train(ours, replace(OPTIONS, epochs=1))[0]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9)
    order, flips = epoch_order(70, 7, 1), epoch_flips(70, 7, 1)
    inputs = prepare_batch(TRAIN.images, TORCHVISION, torch.from_numpy(flips))
    losses, right = 0.0, 0
    for begin in range(0, 70, 16):
        rows = torch.from_numpy(order[begin : begin + 16])
        logits = theirs(inputs[rows])
        loss = binary_cross_entropy_with_logits(logits, TRAIN.labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(rows)
        right += int(((logits > 0) == (TRAIN.labels[rows] > 0.5)).sum())
    assert result.train_loss == pytest.approx(losses / 70, rel=1e-5)
    assert result.train_accuracy == pytest.approx(right / 70)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_validation_equals_predict() -> None:
    model = Tiny(dropout=0.5)
    last = train(model)[-1]
    probabilities = predict(model, VAL.images, preprocessing=TORCHVISION)
    np.testing.assert_array_equal(last.val_probabilities, probabilities)
    assert last.val_accuracy == binary_accuracy(probabilities, VAL.labels.numpy())
    labels = VAL.labels.numpy()
    entropy = -np.log(np.where(labels == 1, probabilities, 1 - probabilities)).mean()
    assert last.val_loss == pytest.approx(float(entropy), rel=1e-4)


def test_predict_keeps_order_and_accepts_no_pictures() -> None:
    model, seen = Tiny(), list[tuple[int, int]]()
    images = draw(130, 5).images
    whole = predict(model, images, preprocessing=TORCHVISION, on_batch=lambda *n: seen.append(n))
    single = [predict(model, images[row : row + 1], preprocessing=TORCHVISION)[0] for row in (0, 64, 129)]
    np.testing.assert_allclose(whole[[0, 64, 129]], single, rtol=1e-5)
    assert seen == [(min(done, 130), 130) for done in range(8, 137, 8)]
    assert predict(model, images[:0], preprocessing=TORCHVISION).shape == (0,)


@pytest.mark.parametrize("interrupted_after", [1, 3])
def test_resumed_training_equals_uninterrupted(tmp_path: Path, interrupted_after: int) -> None:
    whole_model, model = Tiny(dropout=0.3), Tiny(dropout=0.3)
    whole = train(whole_model)

    def interrupt(result: EpochResult, state: LoopState) -> bool:
        state.save(tmp_path / "state")
        return result.epoch == interrupted_after

    before = train(model, on_epoch=interrupt)
    resumed = Tiny(seed=99, dropout=0.3)
    after = train(resumed, start=LoopState.load(tmp_path / "state"))
    assert numbers(before) + numbers(after) == numbers(whole)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole_model.parameters(), strict=True))


def test_resuming_after_last_epoch_does_nothing(tmp_path: Path) -> None:
    train(Tiny(), on_epoch=lambda _, state: bool(state.save(tmp_path / "state")))
    assert train(Tiny(), start=LoopState.load(tmp_path / "state")) == []


def test_patience_counts_from_best_epoch_across_resume() -> None:
    # With a learning rate of zero, the first epoch stays the best.
    options = replace(OPTIONS, epochs=20, learning_rate=0.0, patience=3)
    states: list[LoopState] = []

    def keep(_: EpochResult, state: LoopState) -> bool:
        states.append(copy.deepcopy(state))
        return False

    assert len(train(Tiny(), options, on_epoch=keep)) == 4
    assert [state.is_best for state in states] == [True, False, False, False]
    assert len(train(Tiny(), options, start=states[1])) == 2
    assert train(Tiny(), options, start=states[3]) == []


def test_training_stops_at_saturation_accuracy() -> None:
    states: list[LoopState] = []

    def keep(_: EpochResult, state: LoopState) -> bool:
        states.append(copy.deepcopy(state))
        return False

    options = replace(OPTIONS, epochs=30)
    accuracies = [result.train_accuracy for result in train(Tiny(), options)]
    bound = sorted(accuracy for accuracy in accuracies if accuracy is not None)[10]
    found = train(Tiny(), replace(options, saturation=bound), on_epoch=keep)
    first = next(i for i, accuracy in enumerate(accuracies, 1) if accuracy is not None and accuracy >= bound)
    assert len(found) == first < 30
    assert [state.ended for state in states] == [False] * (first - 1) + [True]
    assert train(Tiny(), replace(options, saturation=bound), start=states[-1]) == []


def test_progress_is_reported_per_batch() -> None:
    seen: list[tuple[int, int]] = []
    train(Tiny(), replace(OPTIONS, epochs=1), on_batch=lambda done, total: seen.append((done, total)))
    # Progress includes validation, in its own batches.
    assert seen == [(done, 101) for done in (16, 32, 48, 64, 70, 78, 86, 94, 101)]


def test_speed_is_reported_without_mfu_on_cpu() -> None:
    result = train(Tiny())[0]
    assert result.images_per_s > 0
    assert 0 <= result.data_wait < 1
    assert result.mfu is None


@given(n=st.integers(1, 300), seed=st.integers(0, 99), epoch=st.integers(1, 99))
def test_epoch_order_is_reproducible_permutation(n: int, seed: int, epoch: int) -> None:
    order = epoch_order(n, seed, epoch)
    assert sorted(order) == list(range(n))
    assert order.tolist() == epoch_order(n, seed, epoch).tolist()
    assert epoch_flips(n, seed, epoch).tolist() == epoch_flips(n, seed, epoch).tolist()


def test_epochs_differ_and_mirror_half_of_pictures() -> None:
    assert epoch_order(1000, 0, 1).tolist() != epoch_order(1000, 0, 2).tolist()
    assert 450 < epoch_flips(1000, 0, 1).sum() < 550
    assert 400 < (epoch_flips(1000, 0, 1) == epoch_flips(1000, 0, 2)).sum() < 600


def test_non_finite_loss_error_names_epoch_and_batch() -> None:
    model = Tiny()

    def poison(done: int, _total: int) -> None:
        if model.poisoned and done == 48:
            model.logit.bias.data.fill_(float("nan"))

    model.poisoned = False  # type: ignore[assignment]

    def from_the_second(_r: EpochResult, _s: LoopState) -> bool:
        model.poisoned = True  # type: ignore[assignment]
        return False

    with pytest.raises(StageError, match=r"the loss is nan in epoch 2, batch 4 of 5; lower --train.learning_rate"):
        train(model, on_batch=poison, on_epoch=from_the_second)


def test_diverging_learning_rate_stops_training() -> None:
    with pytest.raises(StageError, match=r"epoch 1, batch \d of 5"):
        train(Tiny(), replace(OPTIONS, learning_rate=1e30))


def test_diverged_weights_are_not_saved() -> None:
    model, seen = Tiny(), list[int]()

    def poison(done: int, total: int) -> None:
        if seen and done == 70 and total == 70 + 31:
            model.logit.bias.data.fill_(float("inf"))

    def keep(result: EpochResult, _: LoopState) -> bool:
        seen.append(result.epoch)
        return False

    with pytest.raises(StageError, match=r"validation loss is (nan|inf) after epoch 2; lower --train.learning_rate"):
        train(model, on_batch=poison, on_epoch=keep)
    assert seen == [1]


def subset(pictures: ImageSet, pick: Callable[[np.ndarray], np.ndarray]) -> ImageSet:
    rows = np.flatnonzero(pick(pictures.labels.numpy()))
    return image_set(pictures.images.numpy()[rows], pictures.labels.numpy()[rows], pictures.post_ids[rows])


def test_unusable_training_sets_are_refused() -> None:
    with pytest.raises(InputError, match="all 35 training images have the same class"):
        fit(Tiny(), B, subset(TRAIN, lambda y: y == 1), VAL, OPTIONS, preprocessing=TORCHVISION)
    with pytest.raises(InputError, match="70 training and 0 validation images"):
        fit(Tiny(), B, TRAIN, subset(VAL, lambda y: y == 2), OPTIONS, preprocessing=TORCHVISION)


def test_checkpoint_of_other_configuration_is_refused() -> None:
    states: list[LoopState] = []
    train(Tiny(), replace(OPTIONS, epochs=1), on_epoch=lambda _, state: bool(states.append(state)))
    with pytest.raises(ConfigError, match="checkpoint is of configuration D, not A"):
        fit(Tiny(), A, TRAIN, VAL, OPTIONS, preprocessing=TORCHVISION, start=states[0])
