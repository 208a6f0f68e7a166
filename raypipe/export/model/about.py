"""config.json of an exported model: everything needed to use the weights, and where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from raypipe.export.model.library import Recipe
from raypipe.export.model.origin import Origin, form_of, options_of, weights_of
from raypipe.predict.model import TrainedModel
from raypipe.train.data.target import Target
from raypipe.train.networks.heads import ScoreHead
from raypipe.train.networks.weights import VGG16

RESIZE = (
    "the whole picture, upright as its EXIF says, squeezed to size × size pixels, bilinear with antialiasing; a JPEG "
    "of more than twice that is decoded at a half, a quarter or an eighth first"
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
    """The meaning of the output's numbers, in words."""
    if target.kind == "binary":
        return f"the probability of {target.names[1]!r}, the other class being {target.names[0]!r}"
    if target.kind == "classes":
        return "the probability of each class, in the order of the labels; a picture's add up to 1"
    if target.kind == "tags":
        return "the probability that each tag holds, in the order of the labels, each for itself"
    return "the score, in the unit of the labels"


def as_config(
    model: TrainedModel, kept: Mapping[str, str], origin: Origin | None, recipe: Recipe | None
) -> dict[str, Any]:
    """The contents of config.json. `kept` is the checkpoint's metadata."""
    target, pre, head = model.head.target, model.preprocessing, model.head
    name, shape = _OUTPUTS[target.kind]
    return {
        "raypipe": metadata.version("raypipe"),
        "model": kept.get("model", VGG16),
        "configuration": model.configuration,
        "form": form_of(kept, origin),
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
        "weights_from": weights_of(kept),
        "training": _training(kept, origin),
        "torchvision": recipe.as_json() if recipe else None,
    }


def _training(kept: Mapping[str, str], origin: Origin | None) -> dict[str, Any] | None:
    if origin is None:
        return None
    best = origin.trial.best
    return {
        "table": origin.record.table,
        "run_id": origin.record.run_id,
        "trial": origin.trial.trial,
        "seed": origin.trial.seed,
        "options": options_of(kept, form_of(kept, origin)),
        "epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        "test_accuracy": origin.trial.test_accuracy,
        "finished_at": origin.record.finished_at.isoformat(timespec="seconds"),
        "versions": origin.record.versions,
    }


def as_bytes(config: Mapping[str, Any]) -> bytes:
    """config.json as bytes."""
    return json.dumps(config, indent=2, ensure_ascii=False).encode() + b"\n"


def exported_metadata(kept: Mapping[str, str], origin: Origin | None) -> dict[str, str]:
    """The metadata of model.safetensors: what raypipe needs to use it, and nothing about the machine it came from."""
    needed = {name: value for name, value in kept.items() if name not in ("options", "weights")}
    return {**needed, "form": form_of(kept, origin), "weights": weights_of(kept), "format": "pt"}
