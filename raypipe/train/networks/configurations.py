"""The paper's four configurations (sections 4.1, 5.1, 5.2, table 1). A, C and D are derived from B.

All train by stochastic gradient descent on the binary cross-entropy of one logistic unit.

Costs are for 224 × 224 pixels. A multiplication and an addition count as two operations. An epoch of the paper's data
has 30,082 training pictures and 10,027 validation pictures. Minutes are computed for 40 % of an H100's bfloat16 peak
(0.4 · 989 TFLOP/s, 4,300 training pictures of B to D per second). A GPU that never waits for data comes near this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Configuration:
    """The options in which the paper's training set-ups differ.

    `description`: one phrase for reports and model cards (paper, section 5.2).
    `full`: keep VGG-16's two hidden FC layers. Otherwise the flattened last pooling layer feeds the logistic unit.
    `frozen`: convolutions keep their weights.
    `l2`: Keras' λ of the penalty λ‖w‖², only on the weights of the first two FC layers.
    """

    name: str
    description: str
    full: bool = False
    frozen: bool = False
    momentum: float = 0.0
    dropout: float = 0.0
    l2: float = 0.0

    @property
    def weight_decay(self) -> float:
        """The decay as torch defines it: the gradient of λ‖w‖² is 2λw, and torch adds `weight_decay`·w."""
        return 2 * self.l2


B = Configuration("B", "convolutions end to end, logistic layer")
"""Convolutions, trained end to end, and a logistic unit. Accuracy in the paper: best 0.691627, 0.659145 after 9 epochs.
It overfits after the best epoch.

Cost: 14,739,777 parameters; 91.9 GFLOP per training picture, 30.7 per validation picture; 0.13 H100 minutes per epoch,
1.2 for the paper's nine."""

A = replace(B, name="A", description="frozen convolutions, logistic layer", frozen=True)
"""B with frozen convolutions: logistic classification of deep features. Accuracy in the paper: best 0.678814, 0.66873
after 12 epochs.

Cost: 25,089 of B's parameters are trained. Features are computed once, for training pictures also mirrored: 30.7 GFLOP
each, 0.09 H100 minutes in total. An epoch on features takes 0.15 MFLOP per picture, about one second."""

C = replace(B, name="C", description="full VGG-16 end to end", full=True)
"""All of VGG-16, trained end to end, with a logistic unit as its last layer. Accuracy in the paper: best 0.710430,
0.687167 after 8 epochs. No dropout: Keras' VGG-16 has none.

Cost: 134,264,641 parameters; 92.6 GFLOP per training picture, 30.9 per validation picture; 0.13 H100 minutes per epoch,
1.0 for the paper's eight; a checkpoint of 0.54 GB."""

D = replace(C, name="D", description="C with momentum, dropout and L2", momentum=0.9, dropout=0.5, l2=0.0005)
"""C regularised as VGG-16 was for ImageNet. Accuracy in the paper: best 0.719316, 0.681343 after 20 epochs. The paper
used Keras, so the penalty is a weight decay of 0.001 in torch. In Caffe, VGG-16's origin, it would be 0.0005.

Cost: per epoch as C, 2.6 H100 minutes for the paper's twenty. With momentum, a checkpoint to resume from has 1.07 GB.
"""

CONFIGURATIONS = {configuration.name: configuration for configuration in (A, B, C, D)}
