"""A trained model, loaded from its checkpoint."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load

from raypipe import tables
from raypipe.config.learning_options import FORMS, IMAGE_SIZES
from raypipe.errors import ConfigError, InputError, one_line
from raypipe.storage import Storage
from raypipe.train.data.preprocessing import Preprocessing
from raypipe.train.loop.fit import predict
from raypipe.train.networks.build import restore_network
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.heads import Head, Predictions, head_from_metadata
from raypipe.train.networks.vgg import Network
from raypipe.train.networks.weights import VGG16
from raypipe.train.results.checkpoints import BEST_WEIGHTS_FILE, CHECKPOINTS_FOLDER

_ALLOWED = "a .safetensors file, train/NAME, train/NAME/TRIAL, sweep or sweep/TRIAL"


@dataclass
class TrainedModel:
    """A network, and the data to use it: picture size in pixels, normalisation, meaning of the outputs."""

    network: Network
    configuration: str
    image_size: int
    head: Head
    preprocessing: Preprocessing

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or tags, in the order of the outputs. Two classes have one output, for the second."""
        return self.head.target.names

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> TrainedModel:
        """Load from a checkpoint's bytes. Raises InputError if they are not a checkpoint of raypipe."""
        try:
            weights_metadata = checkpoint_metadata(data)
            configuration = _one_of(CONFIGURATIONS, weights_metadata, "configuration")
            _one_of(FORMS, weights_metadata, "form")
            size = _image_size(weights_metadata)
            head, preprocessing = (
                head_from_metadata(weights_metadata),
                Preprocessing.from_json(weights_metadata["preprocessing"]),
            )
            state = load(data)
        except (KeyError, ValueError, TypeError, RecursionError, SafetensorError) as error:
            raise InputError(f"{where}: is not a checkpoint of raypipe: {one_line(error)}") from error
        model = weights_metadata.get("model", VGG16)
        network = restore_network(model, CONFIGURATIONS[configuration], image_size=size, state=state)
        if network.logit.out_features != head.target.n_outputs:
            raise InputError(f"{where}: {network.logit.out_features} outputs do not fit the target {head.target}")
        return cls(network, configuration, size, head, preprocessing)

    def predictions(self, images: NDArray[np.uint8], device: str = "cpu") -> Predictions:
        """Probabilities or scores of pictures (uint8 [n, 3, size, size]). See `raypipe.train.networks.heads`."""
        pictures = torch.from_numpy(images)
        return predict(self.network, pictures, preprocessing=self.preprocessing, head=self.head, device=device)


def checkpoint_metadata(data: bytes) -> dict[str, str]:
    """The metadata of a checkpoint. Raises KeyError, ValueError or TypeError if the bytes have none."""
    length = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + length])["__metadata__"]
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise TypeError("its metadata are not texts with names")
    return found


def _one_of(allowed: Collection[str], weights_metadata: Mapping[str, str], name: str) -> str:
    # Older checkpoints do not record their form. It is the paper's.
    value = weights_metadata.get(name, "paper") if name == "form" else weights_metadata[name]
    if value not in allowed:
        raise ValueError(f"{name} {value[:40]!r} is not one of {', '.join(allowed)}")
    return value


def _image_size(weights_metadata: Mapping[str, str]) -> int:
    # Pictures are decoded to this size. The file may come from anybody, so the size is checked.
    size, (least, most) = int(weights_metadata["image_size"]), IMAGE_SIZES
    if not least <= size <= most:
        raise ValueError(f"image_size {size} is not between {least} and {most} pixels")
    return size


def read_checkpoint(storage: Storage, model: str | None, option: str = "predict.model") -> tuple[str, bytes]:
    """Name and bytes of the checkpoint that `model`, the value of `option`, names: a file, ``train/NAME`` or
    ``sweep/TRIAL``. None means the sweep's best trial. Raises ConfigError or InputError if there is none.
    """
    if model is not None and model.endswith(".safetensors"):
        folder, _, name = model.rpartition("/")
        other = Storage(folder or ".", storage.endpoint, storage.region, storage.profile)
        if other.exists(name):
            return model, other.read(name)
        # The name of a training may also end in .safetensors.
        if folder != "train" or not storage.exists(model):
            raise InputError(f"{option}: {model}: there is no such file")
    table, trial = _table_and_trial(storage, model, option)
    path = f"{table}/{CHECKPOINTS_FOLDER}/{trial}/{BEST_WEIGHTS_FILE}"
    if not storage.exists(path):
        kept = [name.split("/")[0] for name in storage.files(f"{table}/{CHECKPOINTS_FOLDER}")]
        hint = f"saved are {', '.join(sorted(set(kept)))}" if kept else "train with --train.save best"
        raise InputError(f"{storage.uri(path)}: this model was not saved; {hint}")
    return path, storage.read(path)


def _table_and_trial(storage: Storage, model: str | None, option: str) -> tuple[str, str]:
    parts = (model or "sweep").strip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ConfigError(f"{option}: {model!r} is not allowed: {_ALLOWED}, without ..")
    if parts[0] == "sweep" and len(parts) <= 2:
        table = "sweep"
    elif parts[0] == "train" and 2 <= len(parts) <= 3:
        table = "/".join(parts[:2])
    else:
        raise ConfigError(f"{option}: {model!r} is not allowed: {_ALLOWED}")
    given = parts[1:] if table == "sweep" else parts[2:]
    return table, given[0] if given else _winner(storage, table)


def _winner(storage: Storage, table: str) -> str:
    """The best trial according to the table's record. It is checked, because the root may come from anybody."""
    winner = tables.get_record(storage, table).facts.get("winner")
    if not isinstance(winner, str) or "/" in winner or winner in ("", ".", ".."):
        raise InputError(f"{storage.uri(table, tables.RUN_FILE)}: names {winner!r} as the winner, which is not a trial")
    return winner
