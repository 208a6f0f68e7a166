from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from raypipe.config.base import CONFIGURATION_LETTERS, DEFAULT_EPOCHS
from raypipe.train.metrics import training_flops
from raypipe.train.networks import configurations
from raypipe.train.networks.configurations import CONFIGURATIONS, A, B, C, Configuration, D
from raypipe.train.networks.vgg import VGG


def test_four_configurations_have_letters_of_paper() -> None:
    assert list(CONFIGURATIONS) == ["A", "B", "C", "D"]
    assert [c.name for c in CONFIGURATIONS.values()] == ["A", "B", "C", "D"]


def test_each_configuration_has_letter_epochs_and_description() -> None:
    assert tuple(CONFIGURATIONS) == CONFIGURATION_LETTERS == tuple(DEFAULT_EPOCHS)
    assert all(c.description for c in CONFIGURATIONS.values())


def test_configurations_differ_as_in_paper() -> None:
    assert (A.frozen, B.frozen, C.frozen, D.frozen) == (True, False, False, False)
    assert (A.full, B.full, C.full, D.full) == (False, False, True, True)
    assert all((c.momentum, c.dropout, c.l2) == (0, 0, 0) for c in (A, B, C))
    assert (D.momentum, D.dropout, D.l2) == (0.9, 0.5, 0.0005)


def test_keras_penalty_is_doubled_for_torch_decay() -> None:
    assert D.weight_decay == pytest.approx(0.001)
    assert C.weight_decay == 0


@pytest.mark.parametrize(("configuration", "gflop"), [(B, 91.9), (C, 92.6)])
def test_costs_in_docstrings_are_correct(configuration: Configuration, gflop: float) -> None:
    # Only shapes are used. Nothing is computed.
    with FakeTensorMode():
        model = VGG(configuration, image_size=224, pooled=False)
        flops = training_flops(model, torch.empty(1, 3, 224, 224))
    n = sum(parameter.numel() for parameter in model.parameters())
    source = " ".join(Path(configurations.__file__).read_text().split())
    assert flops / 1e9 == pytest.approx(gflop, abs=0.05)
    assert f"{n:,} parameters; {gflop} GFLOP per training picture" in source
    # Three passes over the training pictures and one over a third as many, at 40 % of 989 TFLOP/s.
    minutes = (30_082 + 10_027 / 3) * flops / (0.4 * 989e12) / 60
    assert minutes == pytest.approx(0.13, abs=0.005)
