"""config.json of an exported model: everything needed to use the weights, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from raypipe.export.model.torchvision_recipe import TorchvisionRecipe
from raypipe.export.model.training_origin import TrainingOrigin, starting_weights, training_form, trial_options
from raypipe.predict.model import TrainedModel
from raypipe.train.data.target import Target
from raypipe.train.networks.heads import ScoreHead
from raypipe.train.networks.weights import VGG16

RESIZE = (
    "the whole picture, rotated by its EXIF orientation, resized to size × size pixels, bilinear with antialiasing; a "
    "JPEG of more than twice this size is first decoded at a half, a quarter or an eighth"
)

_OUTPUTS = {
    "binary": ("probability", ["n"]),
    "classes": ("probabilities", ["n", "k"]),
    "tags": ("probabilities", ["n", "k"]),
    "score": ("score", ["n"]),
}


def output_name(target: Target) -> str:
    """The name of the graphs' output."""
    return _OUTPUTS[target.kind][0]


def output_meaning(target: Target) -> str:
    """The meaning of the output's numbers, as text."""
    if target.kind == "binary":
        return f"the probability of {target.names[1]!r}; the other class is {target.names[0]!r}"
    if target.kind == "classes":
        return "the probability of each class, in the order of the labels; they add up to 1"
    if target.kind == "tags":
        return "the probability of each tag, in the order of the labels; they do not add up to 1"
    return "the score, in the unit of the labels"


def config_dict(
    model: TrainedModel,
    weights_metadata: Mapping[str, str],
    origin: TrainingOrigin | None,
    torchvision_recipe: TorchvisionRecipe | None,
) -> dict[str, Any]:
    """The contents of config.json. `weights_metadata` is the checkpoint's metadata."""
    target, pre, head = model.head.target, model.preprocessing, model.head
    name, shape = _OUTPUTS[target.kind]
    return {
        "raypipe": metadata.version("raypipe"),
        "model": weights_metadata.get("model", VGG16),
        "configuration": model.configuration,
        "form": training_form(weights_metadata, origin),
        "image_size": model.image_size,
        "preprocessing": {
            "resize": RESIZE,
            "normalise": "(pixel · scale − mean) / std, pixels 0 to 255, by channel in channel_order",
            "scale": pre.scale,
            "mean": list(pre.mean),
            "std": list(pre.std),
            "channel_order": pre.channel_order,
        },
        "head": target.kind,
        "labels": list(target.names),
        "standardised_by": {"mean": head.mean, "sd": head.sd} if isinstance(head, ScoreHead) else None,
        "input": {"name": "pictures", "type": "uint8", "shape": ["n", 3, model.image_size, model.image_size]},
        "output": {"name": name, "type": "float32", "shape": shape, "meaning": output_meaning(target)},
        "weights_from": starting_weights(weights_metadata),
        "training": _training(weights_metadata, origin),
        "torchvision": torchvision_recipe.as_json() if torchvision_recipe else None,
    }


def _training(weights_metadata: Mapping[str, str], origin: TrainingOrigin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    best = origin.trial.best
    return {
        "table": origin.record.table,
        "run_id": origin.record.run_id,
        "trial": origin.trial.trial,
        "seed": origin.trial.seed,
        "options": trial_options(weights_metadata, training_form(weights_metadata, origin)),
        "epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "test_accuracy": origin.trial.test_accuracy,
        "finished_at": origin.record.finished_at.isoformat(timespec="seconds"),
        "versions": origin.record.versions,
    }


def config_bytes(config: Mapping[str, Any]) -> bytes:
    """config.json as bytes."""
    return json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"


def exported_metadata(weights_metadata: Mapping[str, str], origin: TrainingOrigin | None) -> dict[str, str]:
    """The metadata of model.safetensors: what raypipe needs to use it, and nothing about the machine it came from."""
    needed = {name: value for name, value in weights_metadata.items() if name not in ("options", "weights")}
    return {
        **needed,
        "form": training_form(weights_metadata, origin),
        "weights": starting_weights(weights_metadata),
        "format": "pt",
    }
