"""NIST's Statistical Reference Datasets for linear regression, and their exact solutions.

Data: https://www.itl.nist.gov/div898/strd/lls/lls.shtml (public domain). The certified values there were computed with
500 digits. Here the same least squares problems are solved in rational numbers, without rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import statsmodels.datasets

from raypipe.label.formula.formula import Floats

_NORRIS = """0.1 0.2 338.8 337.4 118.1 118.2 888.0 884.6 9.2 10.1 228.1 226.5 668.5 666.3 998.5 996.3 449.1 448.6 778.9
777.0 559.2 558.2 0.3 0.4 0.1 0.6 778.1 775.5 668.8 666.9 339.3 338.0 448.9 447.5 10.8 11.6 557.7 556.0 228.3 228.1
998.0 995.8 888.8 887.6 119.6 120.2 0.3 0.3 0.6 0.3 557.6 556.8 339.3 339.1 888.0 887.2 998.5 999.0 778.9 779.0 10.2
11.1 117.6 118.3 228.9 229.2 668.4 669.1 449.2 448.9 0.2 0.5"""
_PONTIUS_Y = """.11019 .21956 .32949 .43899 .54803 .65694 .76562 .87487 .98292 1.09146 1.20001 1.30822 1.41599 1.52399
1.63194 1.73947 1.84646 1.95392 2.06128 2.16844 .11052 .22018 .32939 .43886 .54798 .65739 .76596 .87474 .98300 1.09150
1.20004 1.30818 1.41613 1.52408 1.63159 1.73965 1.84696 1.95445 2.06177 2.16829"""
_FILIP = """0.8116 -6.860120914 0.9072 -4.324130045 0.9052 -4.358625055 0.9039 -4.358426747 0.8053 -6.955852379 0.8377
-6.661145254 0.8667 -6.355462942 0.8809 -6.118102026 0.7975 -7.115148017 0.8162 -6.815308569 0.8515 -6.519993057 0.8766
-6.204119983 0.8885 -5.853871964 0.8859 -6.109523091 0.8959 -5.79832982 0.8913 -5.482672118 0.8959 -5.171791386 0.8971
-4.851705903 0.9021 -4.517126416 0.909 -4.143573228 0.9139 -3.709075441 0.9199 -3.499489089 0.8692 -6.300769497 0.8872
-5.953504836 0.89 -5.642065153 0.891 -5.031376979 0.8977 -4.680685696 0.9035 -4.329846955 0.9078 -3.928486195 0.7675
-8.56735134 0.7705 -8.363211311 0.7713 -8.107682739 0.7736 -7.823908741 0.7775 -7.522878745 0.7841 -7.218819279 0.7971
-6.920818754 0.8329 -6.628932138 0.8641 -6.323946875 0.8804 -5.991399828 0.7668 -8.781464495 0.7633 -8.663140179 0.7678
-8.473531488 0.7697 -8.247337057 0.77 -7.971428747 0.7749 -7.676129393 0.7796 -7.352812702 0.7897 -7.072065318 0.8131
-6.774174009 0.8498 -6.478861916 0.8741 -6.159517513 0.8061 -6.835647144 0.846 -6.53165267 0.8751 -6.224098421 0.8856
-5.910094889 0.8919 -5.598599459 0.8934 -5.290645224 0.894 -4.974284616 0.8957 -4.64454848 0.9047 -4.290560426 0.9129
-3.885055584 0.9209 -3.408378962 0.9219 -3.13200249 0.7739 -8.726767166 0.7681 -8.66695597 0.7665 -8.511026475 0.7703
-8.165388579 0.7702 -7.886056648 0.7761 -7.588043762 0.7809 -7.283412422 0.7961 -6.995678626 0.8253 -6.691862621 0.8602
-6.392544977 0.8809 -6.067374056 0.8301 -6.684029655 0.8664 -6.378719832 0.8834 -6.065855188 0.8898 -5.752272167 0.8964
-5.132414673 0.8963 -4.811352704 0.9074 -4.098269308 0.9119 -3.66174277 0.9228 -3.2644011"""
# Wampler's third problem adds these to the polynomial at x = 0…20. The fourth and fifth add 100 and 10,000 times these.
_DELTAS = (759, -2048, 2048, -2048, 2523, -2048, 2048, -2048, 1838, -2048, 2048)
DELTAS = (*_DELTAS, *_DELTAS[-2::-1])


@dataclass(frozen=True)
class Problem:
    """One problem in decimal numbers as published: X, y, and the certified value of one coefficient as a check."""

    name: str
    X: tuple[tuple[Fraction, ...], ...]
    y: tuple[Fraction, ...]
    certified: tuple[int, float]

    @property
    def floats(self) -> tuple[Floats, Floats]:
        """X (n, p) and y (n,), each number rounded once."""
        return np.array([[float(x) for x in row] for row in self.X]), np.array([float(y) for y in self.y])


def _polynomial(name: str, x: list[str], y: list[str], degree: int, certified: tuple[int, float]) -> Problem:
    rows = tuple(tuple(Fraction(value) ** k for k in range(degree + 1)) for value in x)
    return Problem(name, rows, tuple(map(Fraction, y)), certified)


def _wampler(number: int) -> Problem:
    x = range(21)
    step = Fraction(1, 10) if number == 2 else Fraction(1)
    noise = {3: 1, 4: 100, 5: 10_000}.get(number, 0)
    y = [sum((step * v) ** k for k in range(6)) + noise * d for v, d in zip(map(Fraction, x), DELTAS, strict=True)]
    return _polynomial(f"Wampler{number}", [str(v) for v in x], [str(v) for v in y], 5, (1, float(step)))


def _longley() -> Problem:
    data = statsmodels.datasets.longley.load_pandas()
    rows = tuple((Fraction(1), *(Fraction(str(v)) for v in row)) for row in data.exog.to_numpy().tolist())
    return Problem("Longley", rows, tuple(Fraction(str(v)) for v in data.endog), (0, -3482258.63459582))


def _problems() -> list[Callable[[], Problem]]:
    norris, filip = _NORRIS.split(), _FILIP.split()
    no_constant = [
        Problem(
            "NoInt1",
            tuple((Fraction(x),) for x in range(60, 71)),
            tuple(map(Fraction, range(130, 141))),
            (0, 2.07438016528926),
        ),
        Problem(
            "NoInt2",
            ((Fraction(4),), (Fraction(5),), (Fraction(6),)),
            (Fraction(3), Fraction(4), Fraction(4)),
            (0, 0.727272727272727),
        ),
    ]
    return [
        lambda: _polynomial("Norris", norris[1::2], norris[::2], 1, (1, 1.00211681802045)),
        lambda: _polynomial(
            "Pontius",
            [str(150_000 * (i % 20 + 1)) for i in range(40)],
            _PONTIUS_Y.split(),
            2,
            (0, 0.673565789473684e-03),
        ),
        *(lambda problem=problem: problem for problem in no_constant),
        lambda: _polynomial("Filip", filip[1::2], filip[::2], 10, (0, -1467.48961422980)),
        _longley,
        *(lambda number=number: _wampler(number) for number in range(1, 6)),
    ]


PROBLEMS = [make() for make in _problems()]


@dataclass(frozen=True)
class Exact:
    """The solution in rational numbers: `params` (p), the sum of squared residuals, the diagonal of (XᵀX)⁻¹ (p).

    `unexplained` is 1 − R², about the mean if the terms have a constant.
    """

    params: tuple[Fraction, ...]
    ssr: Fraction
    inverse: tuple[Fraction, ...]
    unexplained: float

    def bse(self, n: int) -> list[float]:
        """Standard errors of the coefficients for n rows, rounded once or twice."""
        scale = self.ssr / (n - len(self.params))
        return [math.sqrt(scale * value) for value in self.inverse]


@cache
def exact(problem: Problem) -> Exact:
    """Solve the normal equations in rational numbers."""
    p = len(problem.X[0])
    A = [
        [sum((row[i] * row[j] for row in problem.X), Fraction()) for j in range(p)]
        + [sum((row[i] * y for row, y in zip(problem.X, problem.y, strict=True)), Fraction())]
        + [Fraction(i == j) for j in range(p)]
        for i in range(p)
    ]
    for i in range(p):
        pivot = next(k for k in range(i, p) if A[k][i])
        A[i], A[pivot] = A[pivot], A[i]
        A[i] = [value / A[i][i] for value in A[i]]
        for k in range(p):
            if k != i:
                A[k] = [a - A[k][i] * b for a, b in zip(A[k], A[i], strict=True)]
    params = tuple(row[p] for row in A)
    residuals = [
        y - sum(b * x for b, x in zip(params, row, strict=True)) for row, y in zip(problem.X, problem.y, strict=True)
    ]
    ssr = sum((e * e for e in residuals), Fraction())
    constant = any(all(row[j] == 1 for row in problem.X) for j in range(p))
    mean = sum(problem.y, Fraction()) / len(problem.y) if constant else Fraction()
    total = sum(((y - mean) ** 2 for y in problem.y), Fraction())
    return Exact(params, ssr, tuple(row[p + 1 + i] for i, row in enumerate(A)), float(ssr / total))
