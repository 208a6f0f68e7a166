"""torchvision's own networks, built by the code of the card, give raypipe's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from raypipe.export.model.torchvision_recipe import torchvision_recipe
from raypipe.export.model.usage import usage_examples
from raypipe.predict.model import TrainedModel
from raypipe.train.data.preprocessing import CAFFE_BGR, TORCHVISION
from raypipe.train.networks.build import build_network, load_network_weights
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.heads import ScoreHead, make_head
from tests.export.model.conftest import small_model
from tests.train.small import TARGETS, draw


def build(name: str, letter: str, kind: str, size: int) -> TrainedModel:
    weights, target = load_network_weights(name, "random"), TARGETS[kind]
    network = build_network(
        name, CONFIGURATIONS[letter], image_size=size, weights=weights, seed=2, fresh_fc=True, target=target
    )
    # Features of Caffe's pixels are large. A small weight avoids probabilities of exactly 0 or 1.
    std = 0.005 if kind == "tags" else 0.05
    torch.nn.init.normal_(network.logit.weight, std=std, generator=torch.Generator().manual_seed(2))
    head = ScoreHead(target, -3.0, 2.0) if kind == "score" else make_head(target, torch.zeros(1))
    return TrainedModel(network.eval(), letter, size, head, CAFFE_BGR if kind == "tags" else TORCHVISION)


@pytest.mark.parametrize(
    ("name", "letter", "kind", "size"),
    [("vgg16", "A", "tags", 32), ("vgg16", "C", "score", 32), ("vgg11", "B", "binary", 32),
     ("resnet18", "D", "binary", 32),
     ("mobilenet_v3_small", "B", "classes", 32)],
)  # fmt: skip
def test_card_code_builds_torchvision_network(
    name: str, letter: str, kind: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name, letter, kind, size)
    found = torchvision_recipe(model, name)
    assert found is not None
    pictures = draw(2, 1, size=size).images.numpy()
    save_file(model.network.state_dict(), tmp_path / "model.safetensors")
    (lines,) = [text for heading, text in usage_examples(model, found, onnx=False) if "torchvision" in heading]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"pictures": pictures}
    exec(lines, names)
    answer = names["score" if kind == "score" else "probability" if kind == "binary" else "probabilities"]
    np.testing.assert_allclose(answer.numpy(), model.predictions(pictures), rtol=1e-4, atol=1e-5)


def test_card_has_no_code_for_unknown_networks() -> None:
    model = small_model("binary")
    assert torchvision_recipe(model, "timm/whatever") is None
    # torchvision's network of that name does not have these weights.
    assert torchvision_recipe(model, "resnet18") is None
