"""Initial weights of layers that are not loaded.

The paper's new layers are Glorot-uniform with zero bias: Glorot & Bengio (2010), equation 16. A VGG-16 without
pretrained weights does not learn with them, because its signal fades over 13 layers. It uses He et al. (2015) instead,
then unit variance layer by layer on data: Mishkin & Matas (2015), "All you need is a good init", algorithm 1. Here each
unit is scaled and centred: Krähenbühl et al. (2016), "Data-dependent initializations", section 3.1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

InitScheme = Literal["lsuv", "he", "glorot"]
_SMALLEST_DEVIATION = 1e-6


def initialise(layer: nn.Conv2d | nn.Linear, scheme: InitScheme, generator: torch.Generator) -> None:
    """Sets fresh weights by `scheme` and a zero bias, in place. `lsuv` is `he` before `unit_variance_init`."""
    if scheme == "glorot":
        nn.init.xavier_uniform_(layer.weight, generator=generator)
    else:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def unit_variance_init(model: nn.Module, images: Tensor) -> None:
    """Scales and shifts convolutions and FC layers in place, so that each unit has mean 0 and variance 1 on `images`.

    `images`: float [n, 3, s, s], normalised. The mean and variance are those before the nonlinearity. Layers are scaled
    in the order in which they run. One forward pass is enough, because each layer's output is replaced by the output of
    its new weights. The last of `model`'s layers stays as it is. Raises ValueError on fewer than two images."""
    if len(images) < 2:
        raise ValueError(f"unit_variance_init needs at least 2 images, not {len(images)}")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(_normalise) for layer in layers[:-1]]
    was_training = model.training
    try:
        model.eval()(images)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()


def _normalise(layer: nn.Conv2d | nn.Linear, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    over = [0, *range(2, output.dim())]
    deviation, mean = torch.std_mean(output.float(), dim=over, correction=0)
    deviation = deviation.clamp_min(_SMALLEST_DEVIATION)
    layer.weight.div_(deviation.view(-1, *[1] * (layer.weight.dim() - 1)))
    if layer.bias is None:
        raise ValueError("unit_variance_init needs layers that have a bias")
    layer.bias.sub_(mean).div_(deviation)
    unit = (1, -1, *[1] * (output.dim() - 2))
    return (output - mean.view(unit)) / deviation.view(unit)
