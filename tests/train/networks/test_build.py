"""Networks other than VGG-16 in the same loop, checkpoints and predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from raypipe.errors import ConfigError, InputError
from raypipe.train.data.images import prepare_batch
from raypipe.train.data.preprocessing import CAFFE_RGB, TORCHVISION
from raypipe.train.loop.fit import fit, predict
from raypipe.train.loop.state import LoopOptions
from raypipe.train.networks.build import Classifier, build_network, load_network_weights, restore_network
from raypipe.train.networks.configurations import A, B, C, Configuration, D
from raypipe.train.networks.vgg import VGG
from tests.train.small import TARGETS, draw

OPTIONS = LoopOptions(epochs=2, batch_size=8, learning_rate=0.01, seed=3)


def build(name: str, configuration: object = B, size: int = 64, **more: object) -> Classifier:
    weights = load_network_weights(name, "random")
    found = build_network(name, configuration, image_size=size, weights=weights, seed=1, **more)  # type: ignore[arg-type]
    assert isinstance(found, Classifier)
    return found


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "timm/mobilenetv3_small_050"])
@pytest.mark.parametrize("kind", ["binary", "classes"])
def test_outputs_match_target(name: str, kind: str) -> None:
    target = TARGETS[kind]
    network = build(name, target=target).eval()
    pictures = prepare_batch(draw(2, 0, size=64).images, TORCHVISION)
    outputs = network(pictures)
    assert outputs.shape == ((2,) if kind == "binary" else (2, 3))
    torch.testing.assert_close(network.classify(network.extract(pictures)), outputs)
    assert network.logit.bias.abs().sum() == 0
    assert network.n_features == network.logit.in_features


def test_body_equals_torchvision() -> None:
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


def test_frozen_body_is_cached_and_unchanged() -> None:
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


def test_whole_network_learns_and_is_restored() -> None:
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


def test_vgg16_is_built_as_own_class() -> None:
    weights = load_network_weights("vgg16", "random")
    assert isinstance(build_network("vgg16", B, image_size=32, weights=weights, seed=0), VGG)


@pytest.mark.parametrize(
    ("model", "weights", "message"),
    [
        ("resnet19", "random", r"train.model: 'resnet19' is not a classifier of torchvision"),
        ("resnet18", "some.h5", r"train.weights: 'some.h5' is not allowed for train.model resnet18, only for vgg11"),
        ("resnet18", "imagenet-caffe", r"'imagenet-caffe' is not allowed for train.model resnet18"),
        ("resnet18", "imagnet", r"train.weights: 'imagnet' is not allowed: imagenet"),
        ("timm/resnet19", "random", r"train.model: 'resnet19' is not a classifier of timm"),
        ("raft_large", "random", r"train.model: 'raft_large' is not a classifier"),
    ],
)
def test_unknown_names_raise_error(model: str, weights: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_network_weights(model, weights)


@pytest.mark.parametrize(("configuration", "expected"), [(A, 20_024_384 + 25_089), (D, 139_570_240 + 4_097)])
def test_vgg_19_supports_paper_configurations(configuration: Configuration, expected: int) -> None:
    with torch.device("meta"):
        network = VGG(configuration, image_size=224, pooled=False, name="vgg19")
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    weights = load_network_weights("vgg19", "random")
    small = build_network("vgg19", configuration, image_size=32, weights=weights, seed=0)
    assert [type(part) for part in small.modules() if isinstance(part, torch.nn.Dropout)] == (
        [torch.nn.Dropout] * 2 if configuration is D else []
    )
    again = restore_network("vgg19", configuration, image_size=32, state=small.state_dict())
    pictures = prepare_batch(draw(2, 5, size=32).images, TORCHVISION)
    torch.testing.assert_close(again.eval()(pictures), small.eval()(pictures))
    with pytest.raises(InputError, match="does not fit configuration"):
        restore_network("vgg16", configuration, image_size=32, state=small.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "timm/test_resnet"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_files_load_with_or_without_last_layer(name: str, suffix: str, tmp_path: Path) -> None:
    theirs = library(name)
    state = {key: value + 0.25 if value.is_floating_point() else value for key, value in theirs.state_dict().items()}
    for kept in (state, {key: value for key, value in state.items() if not key.startswith("fc.")}):
        path = write(kept, tmp_path / f"theirs{suffix}")
        loaded = load_network_weights(name, path)
        network = build_network(name, B, image_size=64, weights=loaded, seed=0)
        assert all(torch.equal(network.state_dict()[f"body.{key}"], state[key]) for key in kept if key[:3] != "fc.")
        assert loaded.preprocessing == load_network_weights(name, "random").preprocessing


@pytest.mark.parametrize("name", ["resnet18", "timm/test_resnet", "vgg19"])
def test_own_checkpoint_is_loaded(name: str, tmp_path: Path) -> None:
    target = TARGETS["classes"]
    weights = load_network_weights(name, "random")
    trained = build_network(name, A, image_size=64, weights=weights, seed=4, target=target)
    metadata = {"model": name, "preprocessing": CAFFE_RGB.to_json(), **target.as_metadata()}
    path = write(trained.state_dict(), tmp_path / "best.safetensors", metadata)
    loaded = load_network_weights(name, path)
    assert loaded.preprocessing == CAFFE_RGB
    going_on = build_network(name, B, image_size=64, weights=loaded, seed=0, target=target)
    assert all(torch.equal(value, going_on.state_dict()[key]) for key, value in trained.state_dict().items())
    other = build_network(name, B, image_size=64, weights=loaded, seed=0, target=TARGETS["binary"])
    assert other.logit.out_features == 1
    with pytest.raises(InputError, match=rf"is a checkpoint of {name}, not of resnet34"):
        load_network_weights("resnet34", path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"layer1.0.conv1.weight": torch.zeros(64, 3, 3, 3)},
         r"layer layer1.0.conv1.weight has the shape \(64, 3, 3, 3\), but resnet18 has \(64, 64, 3, 3\)"),
        (lambda state: {key: value for key, value in state.items() if key != "bn1.bias"},
         r"layer bn1.bias is missing: this is not a resnet18"),
        (lambda state: state | {"bn1.bias": torch.full((64,), float("nan"))}, r"layer bn1.bias has values that are"),
        (lambda _: models.get_model("resnet34", weights=None).state_dict(),
         r"layer layer1.2.conv1.weight is not in resnet18; see --train.model"),
    ],
)  # fmt: skip
def test_unsuitable_file_error_names_layer(
    change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str, tmp_path: Path
) -> None:
    path = write(change(library("resnet18").state_dict()), tmp_path / "odd.pth")
    with pytest.raises(InputError, match=rf"train.weights: .*odd.pth: {message}"):
        load_network_weights("resnet18", path)


def library(name: str) -> torch.nn.Module:
    """The library's own network. Its last layer is `fc`."""
    kind, _, own = name.rpartition("/")
    made: torch.nn.Module = timm.create_model(own) if kind else models.get_model(own, weights=None)
    return made


def write(state: Mapping[str, torch.Tensor], path: Path, metadata: dict[str, str] | None = None) -> str:
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path, metadata)
    else:
        torch.save(dict(state), path)
    return str(path)


@pytest.fixture(scope="module", params=["googlenet", "inception_v3"])
def with_second_outputs(request: pytest.FixtureRequest) -> tuple[str, dict[str, torch.Tensor]]:
    """A torchvision network with auxiliary outputs in training, and weights in torchvision's layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = models.get_model(request.param, weights=None, aux_logits=True, init_weights=True)
    return request.param, theirs.state_dict()


@pytest.mark.parametrize("weights", ["imagenet", ".pth"])
def test_pretrained_networks_with_second_outputs_equal_torchvision(
    weights: str,
    with_second_outputs: tuple[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, state = with_second_outputs
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: dict(state))
    theirs = models.get_model(name, weights="DEFAULT")
    assert theirs.transform_input
    theirs.fc = torch.nn.Identity()
    pictures = draw(3, 0, size=96).images
    with torch.no_grad():
        expected = theirs.eval()(prepare_batch(pictures, TORCHVISION))
    loaded = load_network_weights(name, write(state, tmp_path / "theirs.pth") if weights == ".pth" else weights)
    network = build_network(name, B, image_size=96, weights=loaded, seed=0)
    metadata = {"model": name, "preprocessing": loaded.preprocessing.to_json(), **TARGETS["binary"].as_metadata()}
    path = write(network.state_dict(), tmp_path / "best.safetensors", metadata)
    going_on = load_network_weights(name, path)
    restored = restore_network(name, B, image_size=96, state=network.state_dict())
    again = build_network(name, B, image_size=96, weights=going_on, seed=1)
    for ours, used in ((network, loaded), (restored, loaded), (again, going_on)):
        with torch.no_grad():
            found = ours.eval().extract(prepare_batch(pictures, used.preprocessing))
        assert float(expected.std()) > 0
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_checkpoint_keeps_its_normalisation(tmp_path: Path) -> None:
    network = build("googlenet", size=64)
    metadata = {"model": "googlenet", "preprocessing": TORCHVISION.to_json(), **TARGETS["binary"].as_metadata()}
    path = write(network.state_dict(), tmp_path / "older.safetensors", metadata)
    assert load_network_weights("googlenet", path).preprocessing == TORCHVISION


def test_auxiliary_outputs_are_left_out() -> None:
    network = build("googlenet", size=64).train()
    assert network(prepare_batch(draw(2, 0, size=64).images, TORCHVISION)).shape == (2,)


def test_unsupported_image_size_raises_one_line_error() -> None:
    with pytest.raises(ConfigError, match=r"train.image_size: 64 does not fit vit_b_16: Wrong image height"):
        build("vit_b_16", size=64)


def test_timm_network_learns_and_is_restored() -> None:
    network = build("timm/test_resnet", D)
    results = fit(network, D, draw(20, 0, size=64), draw(9, 1, size=64), OPTIONS, preprocessing=TORCHVISION)
    again = restore_network("timm/test_resnet", D, image_size=64, state=network.state_dict())
    found = predict(again, draw(9, 1, size=64).images, preprocessing=TORCHVISION)
    np.testing.assert_allclose(found, results[-1].val_probabilities, rtol=1e-5)
    with pytest.raises(InputError, match="checkpoint: does not fit resnet18"):
        restore_network("resnet18", D, image_size=64, state=network.state_dict())
