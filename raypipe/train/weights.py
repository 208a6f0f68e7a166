"""Pretrained VGG-16 weights from torchvision, Keras, safetensors, and how images must be normalised for each."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.models import VGG16_Weights, vgg16

from raypipe.errors import ConfigError, InputError
from raypipe.train.target import BINARY, Target

POOLED_FEATURES = 512 * 7 * 7
FC_WIDTH = 4096
_NAMES = ("imagenet", "imagenet-caffe", "random", "auto")
_SUFFIXES = (".h5", ".hdf5", ".pth", ".pt", ".safetensors")
_URLS = {"imagenet": VGG16_Weights.IMAGENET1K_V1.url, "imagenet-caffe": VGG16_Weights.IMAGENET1K_FEATURES.url}
_CONNECT_SECONDS = 20.0
_WAYS_OUT = "give the path of a .h5, .pth or .safetensors file, or choose random, or auto"


@dataclass(frozen=True)
class Preprocessing:
    """Normalisation: ``(pixel·scale − mean) / std``, pixels 0 to 255, by channel in `channel_order`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    scale: float = 1.0
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def to_json(self) -> str:
        """For a checkpoint's metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Preprocessing:
        """What `to_json` wrote. Raises ValueError where it is something else."""
        try:
            found = json.loads(text)
            return cls(tuple(found["mean"]), tuple(found["std"]), float(found["scale"]), found["channel_order"])
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a normalisation: {text[:80]}") from error


TORCHVISION = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 1 / 255)
"""torchvision's own training of VGG-16."""

CAFFE_RGB = Preprocessing((0.48235, 0.45882, 0.40784), (1 / 255,) * 3, 1 / 255)
"""torchvision's conversion of the original weights: the paper's mean alone, channels already in RGB order."""

CAFFE_BGR = Preprocessing((103.939, 116.779, 123.68), channel_order="bgr")
"""Keras' files, which hold the original weights as Caffe had them: the paper's mean alone, channels in BGR order."""


@dataclass(frozen=True)
class LoadedWeights:
    """Weights under torchvision's names, float32; None for layers that must start fresh.

    `convolutions`: `features.N.weight` [out, in, 3, 3] and `.bias`; `fc`: `classifier.0`, `classifier.3`, [out, in],
    inputs of the first in channel, height, width order; `logit`: the last layer [outputs, in], which only a checkpoint
    of raypipe's has, and the `target` it was trained on. `note` says what a person should know about the choice.
    """

    name: str
    convolutions: Mapping[str, Tensor] | None
    fc: Mapping[str, Tensor] | None
    preprocessing: Preprocessing
    note: str = ""
    logit: Mapping[str, Tensor] | None = None
    target: Target | None = None
    body: Mapping[str, Tensor] | None = None
    """Of a network that is no VGG-16: all but its last layer, under its library's names."""

    def suits(self, target: Target) -> bool:
        """Whether the last layer means what `target` needs; a unit for two classes does, whatever these are called."""
        own = self.target or BINARY
        return own.kind == target.kind and (own.kind == "binary" or own.names == target.names)

    def note_for(self, target: Target) -> str:
        """What a person should know about training these weights on `target`; empty where there is nothing."""
        if self.logit is None or self.suits(target):
            return ""
        own = self.target or BINARY
        return f"weights: {self.name} was trained on {own}, this is {target}: the last layer starts fresh"


def load_weights(name_or_path: str) -> LoadedWeights:
    """The weights called `imagenet`, `imagenet-caffe`, `random` or `auto`, or those of a file.

    `auto` is `imagenet`, or `random` with a `note` where that cannot be reached. Raises ConfigError on an unknown
    name; InputError where a download fails, a file cannot be read, or a layer is missing or of the wrong shape.
    """
    if name_or_path == "random":
        return LoadedWeights("random", None, None, TORCHVISION, "random weights: nothing is pretrained")
    if name_or_path == "auto":
        return imagenet_or_random(load_weights)
    if name_or_path in _URLS:
        state = _download(name_or_path)
        if name_or_path == "imagenet-caffe":
            return _from_state(name_or_path, {k: v for k, v in state.items() if k.startswith("features.")}, CAFFE_RGB)
        return _from_state(name_or_path, state, TORCHVISION)
    return _from_file(name_or_path)


def imagenet_or_random(load: Callable[[str], LoadedWeights]) -> LoadedWeights:
    """What `load` gives for ``imagenet``, or for ``random``, with a note, where InputError says that it has none."""
    try:
        return load("imagenet")
    except InputError as error:
        note = f"weights: auto falls back to random, nothing is pretrained ({error})"
        return replace(load("random"), note=note)


def _from_file(name: str) -> LoadedWeights:
    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigError(
            f"train.weights: {name!r} is not allowed: {', '.join(_NAMES)}, or a file ({', '.join(_SUFFIXES)})"
        )
    if not path.is_file():
        raise InputError(f"train.weights: {path}: there is no such file")
    try:
        if suffix in (".h5", ".hdf5"):
            return _from_state(name, _read_keras(path), CAFFE_BGR)
        if suffix == ".safetensors":
            loaded, preprocessing, target = _read_safetensors(path)
            return replace(_from_state(name, loaded, preprocessing), target=target)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise InputError(f"train.weights: {path}: cannot be read as {suffix}: {_brief(error)}") from error
    if not isinstance(state, Mapping):
        raise InputError(f"train.weights: {path}: holds a {type(state).__name__}, not a state dict")
    return _from_state(name, *_without_empty_classifier(state))


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without_empty_classifier(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Preprocessing]:
    # torchvision's IMAGENET1K_FEATURES file has the original convolutions and a classifier of NaN.
    first = state.get("classifier.0.weight")
    if isinstance(first, Tensor) and first.dim() == 2 and bool(first[0].isnan().all()):
        return {name: value for name, value in state.items() if not name.startswith("classifier.")}, CAFFE_RGB
    return state, TORCHVISION


def _download(name: str) -> dict[str, Tensor]:
    url = _URLS[name]
    try:
        with _connect_timeout(_CONNECT_SECONDS):
            state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"train.weights: {name}: {url} cannot be fetched: {_brief(error)}; {_WAYS_OUT}") from error
    return state


@contextmanager
def _connect_timeout(seconds: float) -> Iterator[None]:
    # torch.hub sets none, so that a firewall that drops packets would hold the stage for minutes.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Preprocessing, Target | None]:
    with safe_open(path, framework="pt") as file:
        kept = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
    normalisation = kept.get("preprocessing")
    preprocessing = Preprocessing.from_json(normalisation) if normalisation else TORCHVISION
    return state, preprocessing, Target.from_metadata(kept) if "logit.weight" in state else None


def _layer_names() -> dict[str, str]:
    """Keras' names by torchvision's."""
    keras = [f"block{b}_conv{c}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for c in range(1, n + 1)]
    torchvision = [n.removesuffix(".weight") for n in _expected() if n.startswith("features.") and n.endswith("weight")]
    return {**dict(zip(torchvision, keras, strict=True)), "classifier.0": "fc1", "classifier.3": "fc2"}


def _expected() -> dict[str, tuple[int, ...]]:
    """Shapes by torchvision's names, the last layer left out."""
    with torch.device("meta"):
        state = vgg16(weights=None, init_weights=False).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.startswith("classifier.6")}


def _read_keras(path: Path) -> dict[str, Tensor]:
    state = {}
    with h5py.File(path, "r") as file:
        layers = next((file[group] for group in ("model_weights", "layers") if group in file), file)
        for name, keras_name in _layer_names().items():
            if keras_name not in layers:
                continue
            kernel, bias = _keras_layer(layers[keras_name], f"train.weights: {path}: layer {keras_name}")
            state[f"{name}.weight"] = _keras_kernel(kernel, keras_name)
            state[f"{name}.bias"] = torch.from_numpy(bias)
    return state


def _keras_layer(group: Any, where: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    # Names of the data sets changed between versions of Keras; what they hold is told by its dimensions.
    found: dict[bool, Any] = {}

    def visit(_name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[item.ndim > 1] = item

    group.visititems(visit)
    if len(found) != 2:
        raise InputError(f"{where}: must hold a kernel and a bias")
    return np.asarray(found[True], dtype=np.float32), np.asarray(found[False], dtype=np.float32)


def _keras_kernel(kernel: np.ndarray[Any, Any], keras_name: str) -> Tensor:
    tensor = torch.from_numpy(kernel)
    if tensor.dim() == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    if keras_name == "fc1" and len(tensor) == POOLED_FEATURES:
        tensor = rows_by_channel(tensor, side=7)
    return tensor.t().contiguous()


def rows_by_channel(kernel: Tensor, side: int) -> Tensor:
    """The rows of an FC `kernel` [side·side·channels, out] that takes a flattened height, width, channel map, in the
    order of a flattened channel, height, width map."""
    n_out = kernel.shape[1]
    return kernel.reshape(side, side, -1, n_out).permute(2, 0, 1, 3).reshape(-1, n_out)


def _from_state(name: str, state: Mapping[str, Any], preprocessing: Preprocessing) -> LoadedWeights:
    expected = _expected()
    convolutions = _checked(name, state, {k: v for k, v in expected.items() if k.startswith("features.")}, exact=True)
    fc_shapes = {k: v for k, v in expected.items() if k.startswith("classifier.")}
    fc = None
    if any(key in state for key in fc_shapes):
        fc = _checked(name, state, fc_shapes, exact=False)
    kept = {key: state[key].float() for key in ("logit.weight", "logit.bias") if key in state}
    return LoadedWeights(name, convolutions, fc, preprocessing, logit=kept if len(kept) == 2 else None)


def _checked(
    name: str, state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, exact: bool
) -> dict[str, Tensor]:
    # A checkpoint of raypipe's at another image size has another number of inputs to its first FC layer.
    def compare(shape: tuple[int, ...], key: str) -> tuple[int, ...]:
        return shape[:1] if not exact and key == "classifier.0.weight" else shape

    keras = _layer_names()
    found = {}
    for key, shape in shapes.items():
        layer = f"layer {key} ({keras[key.rpartition('.')[0]]} in Keras)"
        value = state.get(key)
        if not isinstance(value, Tensor):
            raise InputError(f"train.weights: {name}: {layer} is missing: this is not a VGG-16")
        if value.dim() != len(shape) or compare(tuple(value.shape), key) != compare(shape, key):
            raise InputError(f"train.weights: {name}: {layer} has the shape {tuple(value.shape)}; VGG-16 has {shape}")
        if not bool(value.isfinite().all()):
            raise InputError(f"train.weights: {name}: {layer} holds values that are not finite")
        found[key] = value.float()
    return found
