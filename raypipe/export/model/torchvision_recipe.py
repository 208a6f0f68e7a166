"""How torchvision loads the weights without raypipe: its network, changed if needed, and its names of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchvision import models

from raypipe.predict.model import TrainedModel
from raypipe.train.networks.build import last_layer
from raypipe.train.networks.keras_file import POOLED_FEATURES
from raypipe.train.networks.vgg import VGG
from raypipe.train.networks.weights import FC_WIDTH


@dataclass(frozen=True)
class TorchvisionRecipe:
    """`lines` of Python build torchvision's `network`. `rename` replaces parts of raypipe's names of weights."""

    builder: str
    lines: tuple[str, ...]
    rename: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """The recipe's entry in config.json."""
        return {"builder": f"torchvision.models.{self.builder}", "rename": self.rename}


def torchvision_recipe(model: TrainedModel, name: str) -> TorchvisionRecipe | None:
    """The recipe for the network that `train.model` calls `name`; None if the weights fit none of torchvision's."""
    if isinstance(model.network, VGG):
        return _vgg(model.network, name)
    if name not in models.list_models(module=models):
        return None
    n_outputs = model.network.logit.out_features
    theirs = models.get_model(name, weights=None, num_classes=n_outputs)
    last = last_layer(theirs)
    found = TorchvisionRecipe(
        name, (f"network = torchvision.models.{name}(num_classes={n_outputs})",), {"body.": "", "logit.": f"{last}."}
    )
    shapes = {torchvision_name(key, found.rename): value.shape for key, value in model.network.state_dict().items()}
    # Some networks have extra classifiers for training only. They keep ImageNet's classes, so the weights do not fit.
    return found if shapes == {key: value.shape for key, value in theirs.state_dict().items()} else None


def torchvision_name(name: str, rename: dict[str, str]) -> str:
    """torchvision's name for a weight that raypipe calls `name`."""
    for ours, theirs in rename.items():
        name = name.replace(ours, theirs)
    return name


def _vgg(network: VGG, name: str) -> TorchvisionRecipe:
    full, n_outputs = len(network.classifier) > 0, network.logit.out_features
    lines = [f"network = torchvision.models.{name}(num_classes={n_outputs}, init_weights=False)"]
    if network.n_features != POOLED_FEATURES:
        lines.append("network.avgpool = torch.nn.Identity()")
    if not full:
        lines.append(f"network.classifier = torch.nn.Linear({network.n_features}, {n_outputs})")
    elif network.n_features != POOLED_FEATURES:
        lines.append(f"network.classifier[0] = torch.nn.Linear({network.n_features}, {FC_WIDTH})")
    return TorchvisionRecipe(name, tuple(lines), {"logit.": "classifier.6." if full else "classifier."})
