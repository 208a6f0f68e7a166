"""Other networks than VGG-16: through the same loop, checkpoints and predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision import models

from raypipe.errors import ConfigError
from raypipe.train.configurations import A, B, C, D
from raypipe.train.images import prepare_batch
from raypipe.train.loop import fit
from raypipe.train.model import VGG16
from raypipe.train.networks import Classifier, build_network, load_network_weights, restore_network
from raypipe.train.state import LoopOptions
from raypipe.train.weights import TORCHVISION
from tests.train.small import TARGETS, draw

NAMES = ("resnet18", "mobilenet_v3_small", "squeezenet1_1", "vit_b_16")
OPTIONS = LoopOptions(epochs=2, batch_size=8, learning_rate=0.01, seed=3)


def build(name: str, configuration: object = B, size: int = 64, **more: object) -> Classifier:
    weights = load_network_weights(name, "random")
    found = build_network(name, configuration, image_size=size, weights=weights, seed=1, **more)  # type: ignore[arg-type]
    assert isinstance(found, Classifier)
    return found


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121"])
@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_outputs_are_those_of_the_target(name: str, kind: str) -> None:
    target = TARGETS[kind]
    network = build(name, target=target).eval()
    pictures = prepare_batch(draw(2, 0, size=64).images, TORCHVISION)
    outputs = network(pictures)
    assert outputs.shape == ((2,) if kind == "binary" else (2, 3))
    torch.testing.assert_close(network.classify(network.extract(pictures)), outputs)
    assert network.logit.bias.abs().sum() == 0
    assert network.n_features == network.logit.in_features


def test_the_body_is_torchvision_s_own() -> None:
    theirs = models.get_model("resnet18", weights=None).eval()
    weights = replace(load_network_weights("resnet18", "random"), body=without_last(theirs))
    ours = build_network("resnet18", B, image_size=64, weights=weights, seed=0).eval()
    pictures = prepare_batch(draw(3, 0, size=64).images, TORCHVISION)
    features = theirs.avgpool(theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(stem(theirs, pictures))))))
    torch.testing.assert_close(ours.extract(pictures), features.flatten(1))


def without_last(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}


def stem(network: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = network.maxpool(network.relu(network.bn1(network.conv1(pictures))))  # type: ignore[operator]
    return found


def test_a_frozen_body_is_computed_once_and_stays_as_it_is() -> None:
    train, val = draw(20, 0, size=64), draw(9, 1, size=64)
    results = []
    for cached in (True, False):
        network = build("resnet18", A)
        before = {name: value.clone() for name, value in network.body.state_dict().items()}
        options = replace(OPTIONS, cache_features=cached)
        results.append(fit(network, A, train, val, options, preprocessing=TORCHVISION))
        assert all(torch.equal(value, before[name]) for name, value in network.body.state_dict().items())
    for one, other in zip(*results, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-3)
        np.testing.assert_allclose(one.val_probabilities, other.val_probabilities, rtol=1e-2)


def test_all_of_it_learns_and_comes_back_from_its_state() -> None:
    network = build("resnet18", D)
    fit(network, D, draw(20, 0, size=64), draw(9, 1, size=64), OPTIONS, preprocessing=TORCHVISION)
    again = restore_network("resnet18", D, image_size=64, state=network.state_dict())
    pictures = prepare_batch(draw(4, 5, size=64).images, TORCHVISION)
    torch.testing.assert_close(again.eval()(pictures), network.eval()(pictures))
    assert isinstance(again, Classifier)
    assert isinstance(again.dropout, torch.nn.Dropout)


def test_the_same_seed_gives_the_same_weights() -> None:
    one, other, third = build("resnet18"), build("resnet18"), build("resnet18", C)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert torch.equal(one.logit.weight, third.logit.weight)


def test_vgg_is_the_paper_s() -> None:
    weights = load_network_weights("vgg16", "random")
    assert isinstance(build_network("vgg16", B, image_size=32, weights=weights, seed=0), VGG16)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("resnet19", "random", r"train.model: 'resnet19' is no classifier of torchvision"),
        ("resnet18", "some.h5", r"train.weights: 'some.h5' is not allowed for train.model resnet18"),
        ("raft_large", "random", r"train.model: 'raft_large' is no classifier"),
    ],
)
def test_names_that_are_not_known(model: str, weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_network_weights(model, weights)
