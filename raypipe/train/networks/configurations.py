"""The paper's four configurations (sections 4.1, 5.1, 5.2, table 1): four short derivations of one.

All train by stochastic gradient descent on the binary cross-entropy of one logistic unit.

Costs are for 224 × 224 pixels, a multiplication and an addition counted as two operations. An epoch of the paper's data
is 30,082 pictures of training and 10,027 of validation; its minutes are arithmetic at 40 % of an H100's peak in
bfloat16 (0.4 · 989 TFLOP/s, 4,300 pictures of B to D trained a second), which a GPU that waits for nothing comes near.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Configuration:
    """What tells one of the paper's training set-ups from another.

    `full`: keep VGG-16's two hidden FC layers; otherwise the flattened last pooling layer feeds the logistic unit.
    `frozen`: convolutions keep their weights.
    `l2`: λ of the penalty λ‖w‖² on the weights of the first two FC layers alone, as Keras takes it.
    """

    name: str
    full: bool = False
    frozen: bool = False
    momentum: float = 0.0
    dropout: float = 0.0
    l2: float = 0.0

    @property
    def weight_decay(self) -> float:
        """The decay in torch's terms: the gradient of λ‖w‖² is 2λw, and torch adds `weight_decay`·w."""
        return 2 * self.l2


B = Configuration("B")
"""Convolutions end to end + logistic unit. Paper: 0.691627 at best, 0.659145 after 9 epochs; it overfits after the
peak.

Cost: 14,739,777 parameters; 91.9 GFLOP a picture trained, 30.7 one looked at; 0.13 H100 minutes an epoch, 1.2 the
paper's nine."""

A = replace(B, name="A", frozen=True)
"""B with frozen convolutions: logistic classification of deep features. Paper: 0.678814 at best, 0.66873 after 12
epochs.

Cost: 25,089 of B's parameters are trained. The features are computed once, of training pictures also mirrored: 30.7
GFLOP each, 0.09 H100 minutes in all; an epoch on them takes 0.15 MFLOP a picture, a second or so."""

C = replace(B, name="C", full=True)
"""All of VGG-16 end to end, its last layer replaced by the logistic unit. Paper: 0.710430 at best, 0.687167 after 8
epochs. No dropout: Keras' VGG-16 has none.

Cost: 134,264,641 parameters; 92.6 GFLOP a picture trained, 30.9 one looked at; 0.13 H100 minutes an epoch, 1.0 the
paper's eight; a checkpoint of 0.54 GB."""

D = replace(C, name="D", momentum=0.9, dropout=0.5, l2=0.0005)
"""C regularised as VGG-16 was for ImageNet. Paper: 0.719316 at best, 0.681343 after 20 epochs. The penalty was given
to Keras, hence a weight decay of 0.001 in torch's terms; Caffe, where VGG-16 came from, would mean 0.0005.

Cost: C's an epoch, 2.6 H100 minutes the paper's twenty; with its momentum a checkpoint to resume from is 1.07 GB."""

CONFIGURATIONS = {configuration.name: configuration for configuration in (A, B, C, D)}
