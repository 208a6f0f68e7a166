"""First weights of layers that are not loaded.

New layers of the paper are Glorot-uniform with zero bias: Glorot & Bengio (2010), equation 16. A VGG-16 without
pretrained weights does not learn from there (its signal fades over 13 layers), hence He et al. (2015) and, by data,
unit variance layer by layer: Mishkin & Matas (2015), "All you need is a good init", algorithm 1, here for each unit
and with its mean removed, as in Krähenbühl et al. (2016), "Data-dependent initializations", section 3.1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Scheme = Literal["lsuv", "he", "glorot"]
_SMALLEST_DEVIATION = 1e-6


def initialise(layer: nn.Conv2d | nn.Linear, scheme: Scheme, generator: torch.Generator) -> None:
    """Fresh weights by `scheme` and a zero bias, in place. `lsuv` starts as `he`, until it has seen data."""
    if scheme == "glorot":
        nn.init.xavier_uniform_(layer.weight, generator=generator)
    else:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def unit_variance_init(model: nn.Module, images: Tensor) -> None:
    """Scales and shifts each convolution and FC layer, in place and in the order in which they run, so that each of its
    units has mean 0 and variance 1 before its nonlinearity over `images` (float [n, 3, s, s], normalised).

    One forward pass suffices: a layer's output is replaced by what its new weights would give. The output layer, the
    last of `model`'s modules, stays as it is. Raises ValueError on fewer than two images.
    """
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
