"""The exported graphs give the model's results for every head, for one or several pictures, and other networks."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from raypipe.errors import ConfigError
from raypipe.export.model import graph
from raypipe.export.model.graph import GraphError
from raypipe.predict.model import TrainedModel
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.data.target import Target
from raypipe.train.networks.build import build_network, load_network_weights
from raypipe.train.networks.configurations import B
from raypipe.train.networks.heads import make_head
from tests.export.model.conftest import small_model
from tests.train.small import TARGETS, draw

CONFIG_JSON = json.dumps({"labels": ["ünten", "oben"]}).encode()


@pytest.mark.parametrize("kind", TARGETS)
def test_both_graph_files_match_model_for_each_head(kind: str) -> None:
    model = small_model(kind)
    pictures = draw(5, 1).images.numpy()
    expected = model.predictions(pictures)
    program = graph.trace(model)
    pt2, as_onnx = graph.to_pt2(program, CONFIG_JSON), graph.to_onnx(program, "answer", CONFIG_JSON)
    for found in (graph.run_pt2(pt2, pictures), graph.run_onnx(as_onnx, pictures)):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(graph.run_onnx(as_onnx, pictures[3:4]), expected[3:4], atol=1e-5)
    kept = {"config.json": ""}
    torch.export.load(io.BytesIO(pt2), extra_files=kept)
    file = onnx.load_from_string(as_onnx)
    assert (
        kept["config.json"]
        == CONFIG_JSON.decode()
        == {item.key: item.value for item in file.metadata_props}["config.json"]
    )
    (given,), (made,) = file.graph.input, file.graph.output
    assert (given.name, made.name) == ("pictures", "answer")
    assert [size.dim_param or size.dim_value for size in given.type.tensor_type.shape.dim] == ["n", 3, 16, 16]
    # Neither file contains the path of the network's source on this machine.
    assert not [data for data in (pt2, as_onnx) if __file__.partition("/tests/")[0].encode() in data]


def test_one_tag_keeps_its_column() -> None:
    model = small_model("binary")
    model = replace(model, head=make_head(Target("tags", ("sun",)), torch.zeros(1)))
    pictures = draw(3, 1).images.numpy()
    assert graph.run_pt2(graph.to_pt2(graph.trace(model), CONFIG_JSON), pictures).shape == (3, 1)


def test_torchvision_network_is_exported() -> None:
    weights = load_network_weights("resnet18", "random")
    target = TARGETS["classes"]
    network = build_network("resnet18", B, image_size=32, weights=weights, seed=1, target=target).eval()
    model = TrainedModel(network, "B", 32, make_head(target, torch.zeros(1)), TORCHVISION)
    pictures = draw(4, 2, size=32).images.numpy()
    data = graph.to_onnx(graph.trace(model), "probabilities", CONFIG_JSON)
    np.testing.assert_allclose(graph.run_onnx(data, pictures), model.predictions(pictures), atol=1e-5)


class Choosy(nn.Module):
    """Branches on the brightness of the pictures, which no graph can express."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if images.mean() > 0 else images.amax((2, 3))


def test_untraceable_network_raises_one_line_error() -> None:
    model = small_model("binary")
    model.network.body, model.network.logit = Choosy(), nn.Linear(3, 1)  # type: ignore[assignment]
    with pytest.raises(GraphError, match=r"model\.pt2: torch\.export cannot write this network: ") as caught:
        graph.trace(model)
    assert "\n" not in str(caught.value)


def test_missing_packages_raise_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graph.wants_onnx(None)
    assert graph.wants_onnx(True)
    assert not graph.wants_onnx(False)
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name == "onnxscript" else object())
    assert not graph.wants_onnx(None)
    with pytest.raises(ConfigError, match=r"export\.onnx: needs onnxscript; pip install 'raypipe\[export\]'"):
        graph.wants_onnx(True)
