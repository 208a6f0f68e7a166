import math

import pytest
import torch
from torch import Tensor, nn

from raypipe.train.networks.configurations import B, C
from raypipe.train.networks.initial_weights import initialise, unit_variance_init
from raypipe.train.networks.vgg import VGG, build_vgg
from raypipe.train.networks.weights import load_weights


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The output of each convolution and FC layer before its nonlinearity."""
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda _l, _i, out, name=name: found.update({name: out.clone()}))
    with torch.no_grad():
        model.eval()(images)
    return found


def test_glorot_and_he_initial_weights_have_right_distribution() -> None:
    layer = nn.Linear(300, 200)
    initialise(layer, "glorot", generator())
    bound = math.sqrt(6 / 500)
    assert layer.weight.abs().max().item() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert not layer.bias.any()
    convolution = nn.Conv2d(64, 64, 3)
    initialise(convolution, "he", generator())
    assert convolution.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)
    assert not convolution.bias.any()


def test_initial_weights_depend_only_on_generator() -> None:
    first, second = nn.Linear(5, 5), nn.Linear(5, 5)
    initialise(first, "he", generator())
    torch.rand(3)
    initialise(second, "he", generator())
    assert torch.equal(first.weight, second.weight)


def test_units_have_mean_zero_and_variance_one() -> None:
    model = build_vgg(C, image_size=32, weights=load_weights("random"), seed=1)
    images = torch.randn(96, 3, 32, 32, generator=generator())
    before = model.logit.weight.clone()
    unit_variance_init(model, images)
    found = outputs(model, images)
    assert len(found) == 13 + 2 + 1
    for name, output in found.items():
        if name != "logit":
            deviation, mean = torch.std_mean(output, dim=[0, *range(2, output.dim())], correction=0)
            assert mean.abs().max() < 1e-3, name
            assert (deviation - 1).abs().max() < 1e-3, name
    assert torch.equal(model.logit.weight, before)


def test_unit_variance_init_spreads_features_more() -> None:
    weights = load_weights("random")
    images = torch.randn(32, 3, 32, 32, generator=generator())

    def spread(model: VGG) -> float:
        with torch.no_grad():
            features = model.eval().extract(images)
        return float(features.std(0).mean() / features.mean().clamp_min(1e-30))

    plain = build_vgg(B, image_size=32, weights=weights, seed=0, init="he")
    scaled = build_vgg(B, image_size=32, weights=weights, seed=0, init="lsuv")
    unit_variance_init(scaled, images)
    assert spread(scaled) > 2 * spread(plain)


def test_unit_variance_init_restores_mode_and_hooks() -> None:
    model = build_vgg(B, image_size=32, weights=load_weights("random"), seed=0)
    model.train()
    unit_variance_init(model, torch.randn(4, 3, 32, 32))
    assert model.training
    weights = model.features[0].weight.clone()
    model(torch.randn(4, 3, 32, 32))
    assert torch.equal(model.features[0].weight, weights)


def test_constant_unit_stays_finite() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 4, 1))
    unit_variance_init(model, torch.ones(3, 3, 2, 2))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_unit_variance_init_needs_two_images() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        unit_variance_init(nn.Flatten(), torch.zeros(1, 3, 2, 2))
