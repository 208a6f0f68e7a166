from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raypipe.errors import ConfigError, InputError
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.data.target import BINARY, Target
from raypipe.train.networks.configurations import CONFIGURATIONS, A, B, C, Configuration, D
from raypipe.train.networks.vgg import VGG, build_vgg, flat_features, parameter_groups, restore_vgg
from raypipe.train.networks.weights import LoadedWeights, load_weights
from tests.train.small import TARGETS

RANDOM = load_weights("random")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def convolutions(seed: int = 5) -> dict[str, Tensor]:
    """Weights as a file could contain them."""
    features = build_vgg(B, image_size=32, weights=RANDOM, seed=seed).features
    return {f"features.{name}": value.clone() for name, value in features.state_dict().items()}


def fc(n_inputs: int) -> dict[str, Tensor]:
    # One number expanded to the shape, so that 400 MB of test data need no memory.
    return {
        "classifier.0.weight": torch.tensor(0.001).expand(4096, n_inputs),
        "classifier.0.bias": torch.tensor(0.25).expand(4096),
        "classifier.3.weight": torch.tensor(0.002).expand(4096, 4096),
        "classifier.3.bias": torch.tensor(0.5).expand(4096),
    }


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [(A, 14_714_688 + 25_089), (B, 14_714_688 + 25_089), (C, 134_264_641), (D, 134_264_641)],
)
def test_parameter_counts_at_224_match_paper(configuration: Configuration, expected: int) -> None:
    with torch.device("meta"):
        model = VGG(configuration, image_size=224, pooled=False)
    assert count(model.features) == 14_714_688
    assert count(model) == expected


@pytest.mark.parametrize("letter", "ABCD")
@pytest.mark.parametrize("size", [32, 70])
def test_network_accepts_any_image_size(letter: str, size: int) -> None:
    model = build_vgg(CONFIGURATIONS[letter], image_size=size, weights=RANDOM, seed=0)
    images = torch.randn(3, 3, size, size)
    assert flat_features(size) == 512 * (size // 32) ** 2
    assert model.extract(images).shape == (3, flat_features(size))
    assert model(images).shape == (3,)


def test_new_layers_are_glorot_uniform_with_zero_bias() -> None:
    weights = LoadedWeights("file", convolutions(), None, TORCHVISION)
    model = build_vgg(C, image_size=64, weights=weights, seed=0, fresh_fc=True)
    for layer in (model.classifier[0], model.classifier[3], model.logit):
        assert isinstance(layer, nn.Linear)
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert 0.95 * bound < layer.weight.abs().max().item() <= bound
        assert not layer.bias.any()


def test_loaded_convolutions_are_used() -> None:
    given = convolutions()
    model = build_vgg(B, image_size=32, weights=LoadedWeights("file", given, None, TORCHVISION), seed=0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in given.items())


def test_seed_fixes_all_random_weights() -> None:
    first, same, other = (build_vgg(B, image_size=32, weights=RANDOM, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["logit.weight"], other["logit.weight"])
    assert not torch.equal(first["features.0.weight"], other["features.0.weight"])


def test_frozen_convolutions_stay_frozen_and_in_evaluation_mode() -> None:
    model = build_vgg(A, image_size=32, weights=RANDOM, seed=0).train()
    assert not model.features.training
    assert model.logit.training
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"logit.weight", "logit.bias"}


def test_only_d_has_dropout() -> None:
    def rates(configuration: Configuration) -> list[float]:
        model = build_vgg(configuration, image_size=32, weights=RANDOM, seed=0)
        return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]

    assert rates(C) == []
    assert rates(D) == [0.5, 0.5]


def test_weight_decay_applies_only_to_fc_weights() -> None:
    model = build_vgg(D, image_size=32, weights=RANDOM, seed=0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def by_decay(groups: list[dict[str, Any]]) -> dict[float, set[str]]:
        return {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in groups}

    groups = by_decay(parameter_groups(model, D, 0.01))
    assert groups[0.001] == {"classifier.0.weight", "classifier.3.weight"}
    assert groups[0.0] == set(names.values()) - groups[0.001]
    assert by_decay(parameter_groups(model, C, 0.01)) == {0.0: set(names.values())}
    assert all(group["momentum"] == 0.9 and group["lr"] == 0.01 for group in parameter_groups(model, D, 0.01))


def test_sgd_step_decays_fc_weights_like_keras() -> None:
    model = build_vgg(D, image_size=32, weights=RANDOM, seed=0)
    optimizer = torch.optim.SGD(parameter_groups(model, D, 0.1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, value in model.state_dict().items():
        # Keras adds 0.0005·Σw² to the loss. Its gradient is 2·0.0005·w.
        shrink = 1 - 0.1 * 2 * 0.0005 if name in ("classifier.0.weight", "classifier.3.weight") else 1
        torch.testing.assert_close(value, before[name] * shrink, rtol=1e-6, atol=0)


def test_c_without_fc_weights_needs_fresh_fc() -> None:
    weights = LoadedWeights("notop.h5", convolutions(), None, TORCHVISION)
    with pytest.raises(ConfigError, match=r"notop.h5 has no FC layers.*--train.fresh_fc true"):
        build_vgg(C, image_size=64, weights=weights, seed=0)
    assert build_vgg(C, image_size=64, weights=weights, seed=0, fresh_fc=True).n_features == 2048


def test_loaded_fc_layers_get_7x7_inputs_at_any_size() -> None:
    weights = LoadedWeights("imagenet", convolutions(), fc(25_088), TORCHVISION)
    model = build_vgg(C, image_size=64, weights=weights, seed=0, fresh_fc=True)
    assert model.extract(torch.randn(1, 3, 64, 64)).shape == (1, 25_088)
    assert float(model.classifier[3].bias[7]) == 0.5


def test_fc_layers_of_another_size_are_refused() -> None:
    weights = LoadedWeights("mine.safetensors", convolutions(), fc(2048), TORCHVISION)
    with pytest.raises(InputError, match=r"mine.safetensors: its first FC layer takes 2048 features.*512"):
        build_vgg(D, image_size=32, weights=weights, seed=0)


def test_too_small_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 32 pixels"):
        build_vgg(A, image_size=31, weights=RANDOM, seed=0)


@pytest.mark.parametrize("letter", "AC")
def test_saved_model_is_restored(letter: str) -> None:
    configuration = CONFIGURATIONS[letter]
    model = build_vgg(configuration, image_size=64, weights=RANDOM, seed=3).eval()
    restored = restore_vgg(configuration, image_size=64, state=model.state_dict()).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), restored(images))


def test_last_layer_matches_target_and_is_restored() -> None:
    model = build_vgg(B, image_size=32, weights=RANDOM, seed=3, target=TARGETS["classes"]).eval()
    images = torch.randn(2, 3, 32, 32)
    assert model(images).shape == (2, 3)
    bound = (6 / (512 + 3)) ** 0.5
    assert 0.95 * bound < model.logit.weight.abs().max().item() <= bound
    restored = restore_vgg(B, image_size=32, state=model.state_dict()).eval()
    assert torch.equal(model(images), restored(images))


def test_score_head_starts_at_the_mean() -> None:
    model = build_vgg(B, image_size=32, weights=RANDOM, seed=3, target=TARGETS["score"])
    assert model(torch.randn(3, 3, 32, 32)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("kept", "wanted", "goes_on"),
    [
        (TARGETS["classes"], TARGETS["classes"], True),
        (TARGETS["classes"], Target("classes", ("ants", "bees", "flies")), False),
        (TARGETS["classes"], TARGETS["tags"], False),
        (TARGETS["binary"], Target("binary", ("ants", "bees")), True),
        (None, TARGETS["binary"], True),
        (TARGETS["binary"], TARGETS["score"], False),
    ],
)
def test_last_layer_is_reused_only_for_same_target(kept: Target | None, wanted: Target, goes_on: bool) -> None:
    state = build_vgg(B, image_size=32, weights=RANDOM, seed=4, target=kept or BINARY).state_dict()
    last = {name: state[name] + 0.5 for name in ("logit.weight", "logit.bias")}
    weights = LoadedWeights("old.safetensors", convolutions(), None, TORCHVISION, logit=last, target=kept)
    model = build_vgg(B, image_size=32, weights=weights, seed=0, target=wanted)
    assert torch.equal(model.features[0].weight, convolutions()["features.0.weight"])
    assert (model.logit.weight.shape == last["logit.weight"].shape) == (wanted.n_outputs == (kept or wanted).n_outputs)
    if model.logit.weight.shape == last["logit.weight"].shape:
        assert torch.equal(model.logit.weight, last["logit.weight"]) == goes_on
    line = f"weights: old.safetensors was trained on {kept}, not {wanted}: the last layer gets new weights"
    assert weights.note_for(wanted) == ("" if goes_on else line)


def test_checkpoint_of_other_configuration_is_refused() -> None:
    state = build_vgg(B, image_size=32, weights=RANDOM, seed=0).state_dict()
    with pytest.raises(InputError, match="without FC layers does not fit configuration C"):
        restore_vgg(C, image_size=32, state=state)
    with pytest.raises(InputError, match=r"at 64 pixels: size mismatch for logit.weight"):
        restore_vgg(B, image_size=64, state=state)
