from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from raypipe.train.metrics import training_flops
from raypipe.train.networks import configurations
from raypipe.train.networks.configurations import CONFIGURATIONS, A, B, C, Configuration, D
from raypipe.train.networks.vgg import VGG


def test_the_four_of_the_paper_by_their_letters() -> None:
    assert list(CONFIGURATIONS) == ["A", "B", "C", "D"]
    assert [c.name for c in CONFIGURATIONS.values()] == ["A", "B", "C", "D"]


def test_each_differs_from_the_one_before_in_what_the_paper_says() -> None:
    assert (A.frozen, B.frozen, C.frozen, D.frozen) == (True, False, False, False)
    assert (A.full, B.full, C.full, D.full) == (False, False, True, True)
    assert all((c.momentum, c.dropout, c.l2) == (0, 0, 0) for c in (A, B, C))
    assert (D.momentum, D.dropout, D.l2) == (0.9, 0.5, 0.0005)


def test_the_penalty_given_to_keras_is_twice_as_much_as_torchs_decay() -> None:
    assert D.weight_decay == pytest.approx(0.001)
    assert C.weight_decay == 0


@pytest.mark.parametrize(("configuration", "gflop"), [(B, 91.9), (C, 92.6)])
def test_the_costs_of_the_docstrings(configuration: Configuration, gflop: float) -> None:
    # Of shapes alone: nothing is computed.
    with FakeTensorMode():
        model = VGG(configuration, image_size=224, pooled=False)
        flops = training_flops(model, torch.empty(1, 3, 224, 224))
    n = sum(parameter.numel() for parameter in model.parameters())
    source = " ".join(Path(configurations.__file__).read_text().split())
    assert flops / 1e9 == pytest.approx(gflop, abs=0.05)
    assert f"{n:,} parameters; {gflop} GFLOP a picture trained" in source
    # Training, three passes, and a look at a third as many pictures, at 40 % of 989 TFLOP/s.
    minutes = (30_082 + 10_027 / 3) * flops / (0.4 * 989e12) / 60
    assert minutes == pytest.approx(0.13, abs=0.005)
