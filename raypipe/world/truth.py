"""The truth about generated posts: the planted effects, and the accuracy of a perfect judge of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel
from scipy import integrate, stats

from raypipe.config.data_options import WorldOptions
from raypipe.errors import InputError, StageError
from raypipe.storage import Storage
from raypipe.world.behaviour import behaviour_of
from raypipe.world.paper_counts import PostCounts
from raypipe.world.posts import GeneratedPosts

TRUTH_FILE = "_truth.json"
_QUANTILES = (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)

TRUTH = pa.schema(
    [
        pa.field("post_id", pa.string(), nullable=False),
        pa.field("look", pa.float64(), nullable=False),
        pa.field("effect", pa.float64(), nullable=False),
        pa.field("noise", pa.float64(), nullable=False),
        pa.field("n_faces", pa.int32()),
        pa.field("behaviour", pa.string()),
    ]
)
"""`truth/`: `look` is the picture's look, standard normal. `effect` is the term of log10(1+likes) that the look causes;
`noise` is the random term. `n_faces` and `behaviour` (of the server) are null for deleted posts."""


class Truth(BaseModel):
    """The contents of ``truth/_truth.json``. `params` uses the names of the terms in `label`'s regression."""

    formula: str
    params: dict[str, float]
    effect_sd: float
    noise_sd: float
    seed: int
    funnel: dict[str, int]
    ceiling: dict[str, float]

    def ceiling_at(self, quantile: float) -> float:
        """The perfect judge's accuracy on top against bottom `quantile`; see `expected_judge_accuracy`."""
        return expected_judge_accuracy(self.effect_sd, self.noise_sd, quantile)


def describe_truth(options: WorldOptions, seed: int, counts: PostCounts) -> Truth:
    """The parameters and counts of a world, with `ceiling` by quantile (the paper's is 0.1)."""
    return Truth(
        formula="log10(1 + likes) = a + b*log10(1 + followers) + c*n_hashtags + effect*look + noise",
        params={
            "Intercept": options.intercept,
            "log10(1 + followers)": options.followers,
            "n_hashtags": options.hashtags,
        },
        effect_sd=options.effect,
        noise_sd=options.noise,
        seed=seed,
        funnel=counts.as_dict(),
        ceiling={str(q): expected_judge_accuracy(options.effect, options.noise, q) for q in _QUANTILES},
    )


def expected_judge_accuracy(effect_sd: float, noise_sd: float, quantile: float) -> float:
    """Accuracy of a perfect judge of the picture on posts in the top against the bottom `quantile` of the score.

    The score is S = effect·L + noise with a standard normal look L, so S and L are bivariate normal with correlation
    ρ = effect / √(effect² + noise²). The judge sees L exactly, but not the noise or the metadata. By the monotone
    likelihood ratio and symmetry, the best guess is the sign of L. It is right with probability

        P(L > 0 | S > z) = (1/q) ∫_z^∞ φ(s) Φ(ρ s / √(1−ρ²)) ds,   z = Φ⁻¹(1−q),  S standardised.

    Rounding likes to whole numbers and estimating the coefficients lower this a little more. `judge_accuracy` gives the
    accuracy on given pictures. Raises ValueError if `quantile` is not in (0, 0.5] or a deviation is negative.
    """
    if not 0 < quantile <= 0.5 or effect_sd < 0 or noise_sd < 0:
        raise ValueError(f"effect_sd {effect_sd}, noise_sd {noise_sd}, quantile {quantile}: out of range")
    if effect_sd == 0:
        return 0.5
    if noise_sd == 0:
        return 1.0
    slope = effect_sd / noise_sd
    lowest = float(stats.norm.isf(quantile))

    def integrand(s: float) -> float:
        return math.exp(-0.5 * s * s) / math.sqrt(2 * math.pi) * 0.5 * math.erfc(-slope * s / math.sqrt(2))

    integral, _ = integrate.quad(integrand, lowest, math.inf, epsabs=1e-12)
    return float(integral / quantile)


def judge_accuracy(
    look: NDArray[np.float64] | Sequence[float], labels: Sequence[str | None], top: str = "top", bottom: str = "bottom"
) -> float:
    """The perfect judge's accuracy on given pictures: how often the sign of `look` matches the label.

    `look` and `labels` have one element per picture. Labels other than `top` and `bottom` are left out.
    Raises InputError if no picture is left, ValueError if the lengths differ.
    """
    looks, names = np.asarray(look, dtype=float), np.asarray(labels, dtype=object)
    if looks.shape != names.shape:
        raise ValueError(f"{looks.shape} looks and {names.shape} labels: each picture needs both")
    is_top, is_bottom = names == top, names == bottom
    judged = is_top | is_bottom
    if not judged.any():
        raise InputError(f"no picture is labelled {top} or {bottom}: there is nothing to judge")
    return float(np.mean((looks > 0)[judged] == is_top[judged]))


def truth_table(posts: GeneratedPosts, misbehave: float, start: int, stop: int) -> pa.Table:
    """Posts `start` to `stop` in the schema of `truth/`."""
    rows = slice(start, stop)
    names = list(map(str, posts.post_ids[rows].tolist()))
    deleted = posts.deleted[rows]
    return pa.Table.from_pydict(
        {
            "post_id": names,
            "look": posts.look[rows],
            "effect": posts.visual[rows],
            "noise": posts.noise[rows],
            "n_faces": pa.array(posts.n_faces[rows].astype("int32"), mask=deleted),
            "behaviour": pa.array([behaviour_of(name, misbehave) for name in names], mask=deleted),
        },
        schema=TRUTH,
    )


def read_truth(storage: Storage) -> Truth:
    """The truth of the world under a root. Raises StageError if there is none."""
    path = f"truth/{TRUTH_FILE}"
    if not storage.exists(path):
        raise StageError(f"{storage.uri(path)}: does not exist; run `raypipe world --root {storage.root}` first")
    return Truth.model_validate_json(storage.read(path))
