"""A trained network as one graph, from pixels to probabilities or scores, written by torch.export and as ONNX."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from raypipe.errors import ConfigError, StageError, one_line
from raypipe.predict.model import TrainedModel

INPUT = "pictures"
CONFIG_NAME = "config.json"
INSTALL = "pip install 'raypipe[export]'"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Float32Array = NDArray[np.float32]
_EXAMPLES = 2
_BATCH = 32


class GraphError(StageError):
    """A network cannot be written, or the written file does not give the model's answers."""


class ExportGraph(nn.Module):
    """Takes pictures, uint8 [n, 3, s, s], RGB. Gives the head's output: see `Head.activations`.

    Normalises like `raypipe.train.data.images.prepare_batch`, but without memory formats and devices.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        # Prediction leaves the weights in a memory format that torch.export stores but warns about.
        self.network = model.network.to(memory_format=torch.contiguous_format)
        self.head, self._preprocessing = model.head, model.preprocessing
        self.register_buffer("mean", torch.tensor(model.preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(model.preprocessing.std).view(3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Probabilities [n] or [n, k], or scores [n]: float32."""
        ordered = pictures.flip(1) if self._preprocessing.channel_order == "bgr" else pictures
        images = (ordered.float() * self._preprocessing.scale - self.mean) / self.std
        outputs: Tensor = self.network.logit(self.network.hidden(self.network.extract(images)))
        # Not `classify`: its squeeze leaves several outputs unchanged, which ONNX's squeeze cannot do.
        return self.head.activations(outputs.squeeze(1) if outputs.shape[1] == 1 else outputs)


def wants_onnx(option: bool | None) -> bool:
    """Whether to write model.onnx. Raises ConfigError if it is requested and packages are missing."""
    missing = missing_packages()
    if option and missing:
        raise ConfigError(f"export.onnx: needs {', '.join(missing)}; {INSTALL}")
    return option is not False and not missing


def missing_packages() -> list[str]:
    """Packages that model.onnx needs and that are not installed."""
    return [name for name in _ONNX_PACKAGES if find_spec(name) is None]


def trace(model: TrainedModel) -> ExportedProgram:
    """The graph for any number of pictures. Raises GraphError if torch.export cannot follow the network."""
    size = model.image_size
    examples = torch.zeros((_EXAMPLES, 3, size, size), dtype=torch.uint8)
    graph, any_number = ExportGraph(model).eval().requires_grad_(False), {INPUT: {0: Dim("n", min=1)}}
    try:
        program = torch.export.export(graph, (examples,), dynamic_shapes=any_number)
    except Exception as error:
        raise GraphError(f"model.pt2: torch.export cannot write this network: {one_line(error)[:300]}") from error
    for node in program.graph.nodes:
        # Stack traces contain source lines and paths of this machine.
        node.meta.pop("stack_trace", None)
    return program


def to_pt2(program: ExportedProgram, config_json: bytes) -> bytes:
    """The file for `torch.export.load`, with `config_json` in it as config.json."""
    out = io.BytesIO()
    torch.export.save(program, out, extra_files={CONFIG_NAME: config_json.decode()})
    return out.getvalue()


def to_onnx(program: ExportedProgram, output: str, config_json: bytes) -> bytes:
    """One ONNX file with the input `pictures`, the output `output`, and `config_json` in its metadata as config.json.

    Raises GraphError if that fails, as with an operator that ONNX does not have or more than 2 GB of weights.
    """
    try:
        onnx_program = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes={INPUT: {0: "n"}},
            dynamo=True,
            verbose=False,
        )
        assert onnx_program is not None
        for node in onnx_program.model.graph:
            node.metadata_props.clear()
        onnx_program.model.metadata_props[CONFIG_NAME] = config_json.decode()
        data: bytes = onnx_program.model_proto.SerializeToString()
    except Exception as error:
        raise GraphError(
            f"model.onnx: this network cannot be written as ONNX: {one_line(error)[:300]}; "
            "set --export.onnx false to leave it out"
        ) from error
    return data


def run_pt2(data: bytes, pictures: NDArray[np.uint8]) -> Float32Array:
    """The file's output for pictures uint8 [n, 3, s, s]."""
    graph = torch.export.load(io.BytesIO(data)).module()
    with torch.no_grad():
        return np.concatenate([graph(torch.from_numpy(part)).numpy() for part in _batches(pictures)])


def run_onnx(data: bytes, pictures: NDArray[np.uint8]) -> Float32Array:
    """The file's output for pictures uint8 [n, 3, s, s], by onnxruntime on the CPU."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {INPUT: part})[0] for part in _batches(pictures)])


def _batches(pictures: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    # The first batch has one picture, so that batches of one and of several pictures are both tried.
    cuts = [1, *range(1 + _BATCH, len(pictures), _BATCH)]
    return [part for part in np.split(pictures, cuts) if len(part)]
