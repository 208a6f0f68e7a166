"""A trained network as one graph, from pixels to what the labels mean: written by torch.export and as ONNX."""

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
ABOUT = "config.json"
INSTALL = "pip install 'raypipe[export]'"
_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")

Floats = NDArray[np.float32]
_EXAMPLES = 2
_BATCH = 32


class GraphError(StageError):
    """A network cannot be written, or what was written does not say what the model says."""


class Graph(nn.Module):
    """Pictures, uint8 [n, 3, s, s], RGB, to what the head says of them: see `Head.activations`.

    Normalised as `raypipe.train.data.images.prepare_batch` does; a graph needs no memory formats and no devices.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: TrainedModel) -> None:
        super().__init__()
        # Prediction leaves weights in an order of channels that torch.export stores, but warns of.
        self.network = model.network.to(memory_format=torch.contiguous_format)
        self.head, self._preprocessing = model.head, model.preprocessing
        self.register_buffer("mean", torch.tensor(model.preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(model.preprocessing.std).view(3, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        """Probabilities [n] or [n, k], or scores [n]: float32."""
        ordered = pictures.flip(1) if self._preprocessing.channel_order == "bgr" else pictures
        images = (ordered.float() * self._preprocessing.scale - self.mean) / self.std
        outputs: Tensor = self.network.logit(self.network.hidden(self.network.extract(images)))
        # Not `classify`: ONNX has no squeeze that leaves several units as they are.
        return self.head.activations(outputs.squeeze(1) if outputs.shape[1] == 1 else outputs)


def wants_onnx(option: bool | None) -> bool:
    """Whether model.onnx is to be written. Raises ConfigError where it is asked for and packages are missing."""
    missing = missing_packages()
    if option and missing:
        raise ConfigError(f"export.onnx: needs {', '.join(missing)}: {INSTALL}")
    return option is not False and not missing


def missing_packages() -> list[str]:
    """Packages that model.onnx needs and that are not installed."""
    return [name for name in _ONNX_PACKAGES if find_spec(name) is None]


def trace(model: TrainedModel) -> ExportedProgram:
    """The graph for any number of pictures. Raises GraphError where torch.export cannot follow the network."""
    size = model.image_size
    examples = torch.zeros((_EXAMPLES, 3, size, size), dtype=torch.uint8)
    graph, any_number = Graph(model).eval().requires_grad_(False), {INPUT: {0: Dim("n", min=1)}}
    try:
        program = torch.export.export(graph, (examples,), dynamic_shapes=any_number)
    except Exception as error:
        raise GraphError(f"model.pt2: torch.export cannot write this network: {one_line(error)[:300]}") from error
    for node in program.graph.nodes:
        # Lines of source with the paths of this machine.
        node.meta.pop("stack_trace", None)
    return program


def to_pt2(program: ExportedProgram, about: bytes) -> bytes:
    """The file that `torch.export.load` reads, with `about` in it as config.json."""
    out = io.BytesIO()
    torch.export.save(program, out, extra_files={ABOUT: about.decode()})
    return out.getvalue()


def to_onnx(program: ExportedProgram, output: str, about: bytes) -> bytes:
    """One ONNX file with input `pictures` and the named output, with `about` in its metadata as config.json.

    Raises GraphError where that cannot be done: an operator that ONNX has not, more than 2 GB of weights.
    """
    try:
        made = torch.onnx.export(
            program,
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes={INPUT: {0: "n"}},
            dynamo=True,
            verbose=False,
        )
        assert made is not None
        for node in made.model.graph:
            node.metadata_props.clear()
        made.model.metadata_props[ABOUT] = about.decode()
        data: bytes = made.model_proto.SerializeToString()
    except Exception as error:
        raise GraphError(
            f"model.onnx: this network cannot be written as ONNX: {one_line(error)[:300]}; "
            "--export.onnx false leaves it out"
        ) from error
    return data


def run_pt2(data: bytes, pictures: NDArray[np.uint8]) -> Floats:
    """What the file gives for pictures uint8 [n, 3, s, s]."""
    graph = torch.export.load(io.BytesIO(data)).module()
    with torch.no_grad():
        return np.concatenate([graph(torch.from_numpy(part)).numpy() for part in _batches(pictures)])


def run_onnx(data: bytes, pictures: NDArray[np.uint8]) -> Floats:
    """What onnxruntime makes of the file for pictures uint8 [n, 3, s, s], on the CPU."""
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {INPUT: part})[0] for part in _batches(pictures)])


def _batches(pictures: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    # The first alone, so that batches of one picture and of several are both tried.
    cuts = [1, *range(1 + _BATCH, len(pictures), _BATCH)]
    return [part for part in np.split(pictures, cuts) if len(part)]
