import numpy as np
import pytest
import torch

from raypipe.train.data.images import prepare_batch
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.loop.fit import fit
from raypipe.train.loop.inputs import FeatureInputs, ImageInputs, evaluate, extract_features
from raypipe.train.loop.state import EpochResult, LoopOptions
from raypipe.train.networks.configurations import A, B, C
from raypipe.train.networks.initial_weights import unit_variance_init
from raypipe.train.networks.vgg import VGG, build_vgg
from raypipe.train.networks.weights import load_weights
from tests.train.small import draw

CPU = torch.device("cpu")
TRAIN, VAL = draw(66, 0, size=32), draw(7, 1, size=32)


def network() -> VGG:
    model = build_vgg(A, image_size=32, weights=load_weights("random"), seed=0)
    unit_variance_init(model, prepare_batch(TRAIN.images, TORCHVISION))
    return model


def train(model: VGG, *, cached: bool, flips: bool = True) -> list[EpochResult]:
    options = LoopOptions(epochs=2, learning_rate=0.01, flips=flips, seed=3, cache_features=cached)
    return fit(model, A, TRAIN, VAL, options, preprocessing=TORCHVISION)


@pytest.mark.parametrize("flips", [True, False])
def test_cached_features_give_same_training_results(flips: bool) -> None:
    fast_model, slow_model = network(), network()
    fast, slow = train(fast_model, cached=True, flips=flips), train(slow_model, cached=False, flips=flips)
    assert [r.train_accuracy for r in fast] == [r.train_accuracy for r in slow]
    assert [r.val_accuracy for r in fast] == [r.val_accuracy for r in slow]
    np.testing.assert_allclose([r.train_loss for r in fast], [r.train_loss for r in slow], rtol=1e-4)
    np.testing.assert_allclose([r.val_loss for r in fast], [r.val_loss for r in slow], rtol=1e-4)
    torch.testing.assert_close(fast_model.logit.weight, slow_model.logit.weight, rtol=1e-3, atol=1e-5)


def test_training_does_not_change_frozen_convolutions() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.features.state_dict().items()}
    train(model, cached=True)
    assert all(torch.equal(value, before[name]) for name, value in model.features.state_dict().items())


@pytest.mark.parametrize("configuration", [B, C])
def test_features_equal_network_outputs_in_order(configuration: object) -> None:
    model = build_vgg(configuration, image_size=32, weights=load_weights("random"), seed=0)
    seen: list[tuple[int, int]] = []
    found = extract_features(
        model, TRAIN.images, TORCHVISION, device=CPU, flip=True, on_batch=lambda *n: seen.append(n)
    )
    with torch.no_grad():
        expected = model.extract(prepare_batch(TRAIN.images.flip(3), TORCHVISION))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert seen == [(min(done, 66), 66) for done in range(8, 73, 8)]
    assert extract_features(model, TRAIN.images[:0], TORCHVISION, device=CPU).shape == (0, 512)


def test_mirrored_row_uses_mirrored_feature() -> None:
    plain, flipped = torch.arange(4.0).view(4, 1), torch.arange(4.0).view(4, 1) + 10
    inputs = FeatureInputs(plain, flipped, CPU)
    row_batches, flips = [np.array([3, 0, 2]), np.array([1])], np.array([False, True, True, True])
    assert [found.flatten().tolist() for found in inputs.batches(row_batches, flips)] == [[13, 0, 12], [11]]
    assert [found.flatten().tolist() for found in inputs.batches(row_batches)] == [[3, 0, 2], [1]]
    alone = FeatureInputs(plain, None, CPU)
    assert [found.tolist() for found in alone.batches([np.array([1])], flips)] == [[[1]]]


def test_pictures_are_selected_by_row_and_mirrored() -> None:
    inputs = ImageInputs(TRAIN.images, TORCHVISION, CPU)
    flips = np.arange(len(TRAIN)) == 2
    first, second = inputs.batches([np.array([5, 2]), np.array([2])], flips)
    five, two = inputs.batches([np.array([5]), np.array([2])])
    torch.testing.assert_close(first[1].flip(2), two[0])
    torch.testing.assert_close(first[0], five[0])
    torch.testing.assert_close(second[0], first[1])
    assert list(inputs.batches([])) == []


class Narrow(torch.nn.Module):
    """A network on a device with memory for `room` pictures."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.room:
            raise torch.OutOfMemoryError("too many")
        return images.mean(dim=(1, 2, 3))


def test_evaluation_batch_shrinks_to_fit_memory() -> None:
    rows, inputs = np.arange(len(TRAIN)), ImageInputs(TRAIN.images, TORCHVISION, CPU)
    wide, narrow = (
        evaluate(model, model, inputs, rows, device=CPU, dtype="float32") for model in (Narrow(64), Narrow(5))
    )
    torch.testing.assert_close(narrow, wide)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Narrow(0), Narrow(0), inputs, rows, device=CPU, dtype="float32")
