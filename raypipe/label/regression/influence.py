"""How much a single user shifts the coefficients: how they would change without that user's posts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import solve_triangular

from raypipe.label.formula.formula import Floats

_CANDIDATES = 100


@dataclass(frozen=True)
class Influence:
    """One user. `shift` (p,) is how far each coefficient moves without the user's posts, in standard errors."""

    user: str
    posts: int
    shift: Floats

    @property
    def largest(self) -> float:
        """The largest absolute value of the shifts."""
        return float(np.abs(self.shift).max())


def most_influential(
    X: Floats, e: Floats, users: npt.NDArray[np.object_], R: Floats, bse: Floats, n: int = 10
) -> list[Influence]:
    """The `n` users without whom some coefficient moves farthest, the farthest first.

    X (m, p) and e (m,) are rows and residuals of the fitted posts, whitened if the fit is weighted. `users` (m,) has
    the user of each post; posts of unknown users (None) are left out. R (p, p) is the triangular factor of X, bse is
    (p,). Each returned shift is exact: β − β₍ᵤ₎ = (XᵀX − XᵤᵀXᵤ)⁻¹ Xᵤᵀeᵤ (Cook, Weisberg 1982, section 3.6, for a set of
    rows). Candidates are found without the term XᵤᵀXᵤ. It matters for users with many posts, who are candidates too.
    """
    known = np.array([user is not None and user == user for user in users])
    names, codes = np.unique(users[known].astype(str), return_inverse=True)
    if not len(names):
        return []
    z = solve_triangular(R, X[known].T, trans="T").T
    sums = np.zeros((len(names), X.shape[1]))
    np.add.at(sums, codes, z * e[known][:, None])
    counts = np.bincount(codes)
    first = np.abs(solve_triangular(R, sums.T).T / bse).max(axis=1)
    looked_at = {*np.argsort(-first)[:_CANDIDATES].tolist(), *np.argsort(-counts)[:_CANDIDATES].tolist()}
    found = []
    for user in looked_at:
        own = z[codes == user]
        rest = np.eye(X.shape[1]) - own.T @ own
        # If only this user's posts determine a coefficient, it does not exist without them.
        if np.linalg.eigvalsh(rest)[0] < 1e-10:
            continue
        shift = solve_triangular(R, np.linalg.solve(rest, sums[user])) / bse
        found.append(Influence(str(names[user]), int(counts[user]), shift))
    return sorted(found, key=lambda influence: (-influence.largest, influence.user))[:n]
