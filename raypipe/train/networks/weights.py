"""Pretrained weights of VGG-11, 13, 16 and 19 from torchvision, Keras and safetensors, with their normalisation."""

from __future__ import annotations

import pickle
import socket
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from raypipe.errors import ConfigError, InputError
from raypipe.tables.record import file_fingerprint
from raypipe.train.data.preprocessing import CAFFE_BGR, CAFFE_RGB, TORCHVISION, Preprocessing
from raypipe.train.data.target import BINARY, Target
from raypipe.train.networks.keras_file import KERAS, read_keras

FC_WIDTH = 4096
VGG16 = "vgg16"
BLOCKS = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    VGG16: (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""Convolutions before each pooling: Simonyan & Zisserman (2014), table 1, columns A, B, D and E."""
_NAMES = ("imagenet", "imagenet-caffe", "random", "auto")
_SUFFIXES = (*KERAS, ".pth", ".pt", ".safetensors")
_CAFFE = "imagenet-caffe"
_CONNECT_SECONDS = 20.0
_WAYS_OUT = "set the path of a .h5, .pth or .safetensors file, random or auto"


@dataclass(frozen=True)
class LoadedWeights:
    """Weights under torchvision's names, float32. None for layers that need fresh weights.

    `convolutions`: `features.N.weight` [out, in, 3, 3] and `.bias`. `fc`: `classifier.0` and `classifier.3`, [out, in];
    inputs of the first are in channel, height, width order. `logit`: the last layer [outputs, in]; only raypipe's
    checkpoints have it and the `target` it was trained on. `note` is a message for the user about the choice.
    """

    name: str
    convolutions: Mapping[str, Tensor] | None
    fc: Mapping[str, Tensor] | None
    preprocessing: Preprocessing
    note: str = ""
    logit: Mapping[str, Tensor] | None = None
    target: Target | None = None
    body: Mapping[str, Tensor] | None = None
    """For networks other than VGG: all layers but the last, under the library's names."""

    def fits_target(self, target: Target) -> bool:
        """Whether the outputs of the last layer mean the same as those of `target`. Names of two classes may differ."""
        own = self.target or BINARY
        return own.kind == target.kind and (own.kind == "binary" or own.names == target.names)

    def last_layer_for(self, target: Target, layer: nn.Linear) -> dict[str, Tensor]:
        """The trained last layer. Empty if it does not fit `target` or has another shape than `layer`."""
        if self.logit is None or not self.fits_target(target) or self.logit["logit.weight"].shape != layer.weight.shape:
            return {}
        return dict(self.logit)

    def note_for(self, target: Target) -> str:
        """A message for the user if the last layer starts fresh because `target` is another one; else empty."""
        if self.logit is None or self.fits_target(target):
            return ""
        own = self.target or BINARY
        return f"weights: {self.name} was trained on {own}, not {target}: the last layer gets new weights"


def load_weights(name_or_path: str, model: str = VGG16) -> LoadedWeights:
    """The weights `imagenet`, `imagenet-caffe`, `random` or `auto`, or those of a file, for a `model` of `BLOCKS`.

    `auto` is `imagenet`, or `random` with a `note` if the download fails. Raises ConfigError on an unknown name.
    Raises InputError if a download fails, a file cannot be read, or a layer is missing or has the wrong shape.
    """
    if name_or_path == "random":
        return LoadedWeights("random", None, None, TORCHVISION, "random weights: nothing is pretrained")
    if name_or_path == "auto":
        return imagenet_or_random(partial(load_weights, model=model))
    if name_or_path == _CAFFE and model != VGG16:
        raise ConfigError(f"train.weights: {_CAFFE} is not allowed for train.model {model}, only for {VGG16}")
    if name_or_path == _CAFFE:
        convolutions = {k: v for k, v in _download(_CAFFE, model).items() if k.startswith("features.")}
        return _from_state(_CAFFE, convolutions, CAFFE_RGB, model)
    if name_or_path == "imagenet":
        return _from_state(name_or_path, _download(name_or_path, model), TORCHVISION, model)
    return _from_file(name_or_path, model)


def weights_inputs(name_or_path: str) -> dict[str, str]:
    """The fingerprint of a weights file, as an input of a run: another file may later have the same path.

    Empty for names, and if there is no such file. Raises InputError if the file cannot be read.
    """
    path = Path(name_or_path).expanduser()
    if name_or_path in _NAMES or not path.is_file():
        return {}
    try:
        return {"weights": file_fingerprint(path)}
    except OSError as error:
        raise _unreadable(path, error) from error


def _from_file(name: str, model: str) -> LoadedWeights:
    if Path(name).suffix.lower() in KERAS:
        path = _existing(name)
        try:
            return _from_state(name, read_keras(path, _layer_names(model)), CAFFE_BGR, model)
        except (OSError, RuntimeError, ValueError) as error:
            raise _unreadable(path, error) from error
    file = read_file(name, model)
    state, preprocessing = _without_empty_classifier(file.state)
    loaded = _from_state(name, state, file.preprocessing or preprocessing, model)
    return replace(loaded, target=file.target)


def imagenet_or_random(load: Callable[[str], LoadedWeights]) -> LoadedWeights:
    """What `load` returns for ``imagenet``. If it raises InputError: what it returns for ``random``, with a note."""
    try:
        return load("imagenet")
    except InputError as error:
        note = f"weights: auto uses random, nothing is pretrained ({error})"
        return replace(load("random"), note=note)


@dataclass(frozen=True)
class WeightFile:
    """The state dict of a file; for raypipe's checkpoints also the normalisation and the target."""

    state: Mapping[str, Any]
    preprocessing: Preprocessing | None = None
    target: Target | None = None


def read_file(name: str, model: str) -> WeightFile:
    """Reads a .pth, .pt or .safetensors file. Raises ConfigError on another kind of file.

    Raises InputError if it is missing, cannot be read, or is a checkpoint of another network than `model`."""
    path = _existing(name)
    if path.suffix.lower() == ".safetensors":
        try:
            return _read_safetensors(path, model)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise _unreadable(path, error) from error
    try:
        # Files in torch's older format, such as torchvision's first VGG-16, cannot be mapped into memory.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises many kinds of errors on bytes in another format
        raise _unreadable(path, error) from error
    if not isinstance(state, Mapping):
        raise InputError(f"train.weights: {path}: contains a {type(state).__name__}, not a state dict")
    return WeightFile(state)


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"train.weights: {name!r} is not allowed: {', '.join(_NAMES)}, or a file ({', '.join(_SUFFIXES)})"
        )
    if not path.is_file():
        raise InputError(f"train.weights: {path}: there is no such file")
    return path


def _unreadable(path: Path, error: BaseException) -> InputError:
    return InputError(f"train.weights: {path}: cannot be read as {path.suffix.lower()}: {_brief(error)}")


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _without_empty_classifier(state: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Preprocessing]:
    # torchvision's IMAGENET1K_FEATURES file has the original convolutions and a classifier of NaN.
    first = state.get("classifier.0.weight")
    if isinstance(first, Tensor) and first.dim() == 2 and bool(first[0].isnan().all()):
        return {name: value for name, value in state.items() if not name.startswith("classifier.")}, CAFFE_RGB
    return state, TORCHVISION


def _download(name: str, model: str) -> dict[str, Tensor]:
    url = weights_url(name, model)
    try:
        with connect_timeout():
            state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
                url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"train.weights: {name}: {url} cannot be fetched: {_brief(error)}; {_WAYS_OUT}") from error
    return state


def weights_url(name: str, model: str) -> str:
    """The address from which torchvision fetches the named weights of a VGG."""
    # Imported here: it takes seconds, and most processes of a training build no network.
    from torchvision.models import get_model_weights

    weights = get_model_weights(model)
    return str((weights.IMAGENET1K_FEATURES if name == _CAFFE else weights.IMAGENET1K_V1).url)


@contextmanager
def connect_timeout() -> Iterator[None]:
    """Sets a connection timeout for downloads in the body.

    torch.hub sets none, so a firewall that drops packets would delay the stage by minutes."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _read_safetensors(path: Path, model: str) -> WeightFile:
    with safe_open(path, framework="pt") as file:
        kept = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
    normalisation, of = kept.get("preprocessing"), kept.get("model", VGG16)
    preprocessing = Preprocessing.from_json(normalisation) if normalisation else None
    if "logit.weight" not in state:
        return WeightFile(state, preprocessing)
    if of != model:
        raise InputError(f"train.weights: {path}: is a checkpoint of {of}, not of {model}; see --train.model")
    return WeightFile(state, preprocessing, Target.from_metadata(kept))


def _layer_names(model: str) -> dict[str, str]:
    """Maps torchvision's names of layers to Keras' names."""
    keras = [f"block{b}_conv{c}" for b, n in enumerate(BLOCKS[model], 1) for c in range(1, n + 1)]
    names = [name.removesuffix(".weight") for name in _expected(model) if name.endswith(".weight")]
    torchvision = [name for name in names if name.startswith("features.")]
    return {**dict(zip(torchvision, keras, strict=True)), "classifier.0": "fc1", "classifier.3": "fc2"}


def _expected(model: str = VGG16) -> dict[str, tuple[int, ...]]:
    """Maps torchvision's names of weights to their shapes, without the last layer."""
    from torchvision.models import get_model

    with torch.device("meta"):
        state = get_model(model, weights=None, init_weights=False).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.startswith("classifier.6")}


def _from_state(name: str, state: Mapping[str, Any], preprocessing: Preprocessing, model: str) -> LoadedWeights:
    shapes = _expected(model)
    deeper = [key for key in state if key.startswith("features.") and key not in shapes]
    if deeper:
        raise InputError(f"train.weights: {name}: layer {deeper[0]} is not in {title(model)}; see --train.model")
    keras = _layer_names(model)
    known = {key: f"{key} ({keras[key.rpartition('.')[0]]} in Keras)" for key in shapes}
    convolutions = check_layers(
        name, state, {k: v for k, v in shapes.items() if k.startswith("features.")}, title(model), known
    )
    fc = None
    fc_shapes: dict[str, tuple[int | None, ...]] = {k: v for k, v in shapes.items() if k.startswith("classifier.")}
    if any(key in state for key in fc_shapes):
        # In a raypipe checkpoint the number of inputs of the first FC layer depends on the image size.
        fc_shapes["classifier.0.weight"] = (FC_WIDTH, None)
        fc = check_layers(name, state, fc_shapes, title(model), known)
    return LoadedWeights(name, convolutions, fc, preprocessing, logit=kept_last_layer(state))


def kept_last_layer(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The last layer of a raypipe checkpoint; None for other files."""
    kept = {key: state[key].float() for key in ("logit.weight", "logit.bias") if key in state}
    return kept if len(kept) == 2 else None


def title(model: str) -> str:
    """A network's name for messages: VGG-16 for ``vgg16``; the library's name for networks other than VGG."""
    return model.replace("vgg", "VGG-") if model in BLOCKS else model


def check_layers(
    name: str,
    state: Mapping[str, Any],
    shapes: Mapping[str, tuple[int | None, ...]],
    network: str,
    known: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """The layers of `state`, read from the file `name`, that `shapes` lists. None in a shape allows any number.

    `known` has longer names of layers, for messages. Raises InputError that names the layer if a layer is missing, is
    not finite, or has another shape than in `network`."""
    found = {}
    for key, shape in shapes.items():
        layer = f"layer {(known or {}).get(key, key)}"
        value = state.get(key)
        if not isinstance(value, Tensor):
            raise InputError(f"train.weights: {name}: {layer} is missing: this is not a {network}")
        same = all(size in (own, None) for own, size in zip(value.shape, shape, strict=False))
        if value.dim() != len(shape) or not same:
            wanted = str(shape).replace("None", "any")
            raise InputError(
                f"train.weights: {name}: {layer} has the shape {tuple(value.shape)}, but {network} has {wanted}"
            )
        if not bool(value.isfinite().all()):
            raise InputError(f"train.weights: {name}: {layer} has values that are not finite")
        found[key] = value.float() if value.is_floating_point() else value
    return found
