"""The space of hyperparameters from YAML: a list is a grid, ``{loguniform: [1e-4, 1e-2]}`` is a distribution.

A draw depends only on the seed, the name of the option and the number of the draw. So a sweep that is run again, or
with more draws or options, gets the same values.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raypipe.config.base import CONFIGURATION_LETTERS

_SIGNIFICANT = 4
_SHAPES = {
    "choice": "[a, b, …]",
    "uniform": "[low, high]",
    "loguniform": "[low, high]",
    "integers": "[low, high]",
    "normal": "[mean, sd]",
}


@dataclass(frozen=True)
class Grid:
    """A set of values that are all tried."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Distribution:
    """A distribution of values. `name` is ``choice``, ``uniform``, ``loguniform``, ``integers`` (both ends included) or
    ``normal`` with `values`, or a distribution of scipy.stats with `parameters`."""

    name: str
    values: tuple[Any, ...] = ()
    parameters: tuple[tuple[str, float], ...] = ()

    def draw(self, seed: int, key: str, number: int) -> Any:
        """Draw number `number` for the option `key`. Numbers are rounded to four significant digits."""
        u = float(np.random.default_rng([seed, zlib.crc32(key.encode()), number]).random())
        if self.name == "choice":
            return self.values[int(u * len(self.values))]
        return _plain(self._frozen.ppf(u))

    @functools.cached_property
    def _frozen(self) -> Any:
        # The import takes a second, and only draws need it.
        from scipy import stats

        if self.parameters:
            return getattr(stats, self.name)(**dict(self.parameters))
        a, b = self.values
        if self.name == "integers":
            return stats.randint(a, b + 1)
        if self.name == "uniform":
            return stats.uniform(a, b - a)
        return stats.loguniform(a, b) if self.name == "loguniform" else stats.norm(a, b)

    def check(self) -> None:
        """Raises ValueError if scipy.stats has no such distribution, or if it does not take these parameters."""
        from scipy import stats

        if not isinstance(getattr(stats, self.name, None), stats.rv_continuous | stats.rv_discrete):
            raise ValueError(f"{self.name} is not a distribution; use {', '.join(_SHAPES)}, or a name of scipy.stats")
        try:
            fits = np.isfinite(self._frozen.ppf(0.5))
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(f"{self.name} does not accept {dict(self.parameters)} (see scipy.stats.{self.name})")


Domain = Grid | Distribution


def parse_domain(spec: Any) -> Domain:
    """The grid or distribution of one option. Raises ValueError, which says what is wrong."""
    if not isinstance(spec, Mapping):
        values = tuple(spec) if isinstance(spec, list | tuple) else (spec,)
        if not values:
            raise ValueError("the list is empty")
        return Grid(values)
    if len(spec) != 1:
        raise ValueError(f"{dict(spec)} must name one distribution of {', '.join(_SHAPES)}")
    ((name, given),) = spec.items()
    if isinstance(given, Mapping):
        found = Distribution(str(name), parameters=tuple((str(key), _number(value)) for key, value in given.items()))
        found.check()
        return found
    if name not in _SHAPES or not isinstance(given, list) or not given:
        shapes = ", ".join(f"{{{known}: {shape}}}" for known, shape in _SHAPES.items())
        raise ValueError(f"{{{name}: {given}}} is none of {shapes}, {{SCIPY-NAME: {{parameter: number}}}}")
    if name == "choice":
        return Distribution(name, tuple(given))
    a, b = (_number(value) for value in given) if len(given) == 2 else (1.0, 0.0)
    whole = a == int(a) and b == int(b)
    limits = {"loguniform": 0 < a < b, "normal": b > 0, "integers": a <= b and whole, "uniform": a < b}
    if not limits[name]:
        raise ValueError(f"{{{name}: {given}}} must be {_SHAPES[name]} of numbers" + _LIMITS[name])
    return Distribution(name, (int(a), int(b)) if name == "integers" else (a, b))


_LIMITS = {
    "loguniform": " with 0 < low < high",
    "normal": " with sd > 0",
    "integers": " that are whole, low ≤ high",
    "uniform": " with low < high",
}


def domains_by_letter(spec: Any) -> dict[str, Domain]:
    """The domain of an option by configuration. It is the same for all if `spec` does not list configurations.

    The option does not vary for a configuration that is left out. Raises ValueError as `parse_domain` does.
    """
    if isinstance(spec, Mapping) and spec and all(key in CONFIGURATION_LETTERS for key in spec):
        return {letter: parse_domain(part) for letter, part in spec.items()}
    found = parse_domain(spec)
    return dict.fromkeys(CONFIGURATION_LETTERS, found)


def combinations(space: Mapping[str, Any], letter: str, samples: int, seed: int) -> list[dict[str, Any]]:
    """Each combination of a configuration's grids, `samples` times if there are distributions.

    Draw number i is the same in every combination, so that grids are compared with equal draws. Returns `[{}]` if
    nothing varies. Equal combinations occur once.
    """
    every = {key: domains_by_letter(spec) for key, spec in space.items()}
    mine = {key: kinds[letter] for key, kinds in every.items() if letter in kinds}
    drawn = [key for key, kind in mine.items() if isinstance(kind, Distribution)]
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for number in range(samples if drawn else 1):
        axes = [
            kind.values if isinstance(kind, Grid) else (kind.draw(seed, key, number),) for key, kind in mine.items()
        ]
        for values in itertools.product(*axes):
            found.setdefault(tuple(map(text_of, values)), dict(zip(mine, values, strict=True)))
    return list(found.values())


def text_of(value: Any) -> str:
    """A value as text, as in names of trials and in tables."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> float:
    # YAML 1.1 reads 1e-4 as text, because it has no dot.
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return number


def _plain(value: Any) -> int | float:
    number = float(f"{float(value):.{_SIGNIFICANT}g}")
    return int(value) if isinstance(value, np.integer) or float(value).is_integer() else number
