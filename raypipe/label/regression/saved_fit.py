"""Reads the numbers of a fit from ``_model.json``. Each is checked, as the file may come from another person."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raypipe.label.formula.formula import Floats
from raypipe.label.regression.fit_statistics import Fit
from raypipe.label.regression.residuals import ResidualTests

BY_TERM = ("params", "bse", "tvalues", "pvalues", "conf_int")
"""Fields of `Fit` of shape (p,) or (p, 2), stored by term name."""
MATRICES = ("cov_params", "R")
"""Fields of `Fit` of shape (p, p), stored by the term names of row and column."""

# A number that was not finite is null in the file.
Number = float | None
Numbers = dict[str, Number]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]


class _StoredResidualTests(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    skew: Number
    kurtosis: Number
    jarque_bera: Number
    jarque_bera_p: Number
    omnibus: Number
    omnibus_p: Number
    durbin_watson: Number


class _StoredFit(BaseModel):
    model_config = ConfigDict(strict=True)

    cov_type: Literal["nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster"]
    nobs: int
    df_model: int
    df_resid: int
    n_groups: int | None
    params: Numbers
    cov_params: dict[str, Numbers]
    bse: Numbers
    tvalues: Numbers
    pvalues: Numbers
    conf_int: dict[str, Pair]
    rsquared: Number
    rsquared_adj: Number
    fvalue: Number
    f_pvalue: Number
    ssr: Number
    llf: Number
    aic: Number
    bic: Number
    scale: Number
    condition_number: Number
    has_constant: bool
    weighted: bool
    R: dict[str, Numbers]
    shape: _StoredResidualTests | None = None

    @model_validator(mode="after")
    def _has_the_same_terms(self) -> Self:
        terms = list(self.params)
        rows = [row for name in MATRICES for row in getattr(self, name).values()]
        for found in (*(getattr(self, name) for name in (*BY_TERM, *MATRICES)), *rows):
            if list(found) != terms:
                raise ValueError(f"terms {', '.join(found)}, but params has {', '.join(terms)}")
        return self


def read_fit(values: dict[str, Any]) -> Fit:
    """The fit in the contents of ``_model.json``. Raises ValueError if a number is missing, or terms do not agree."""
    try:
        found = _StoredFit.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
    given: dict[str, Any] = {name: _or_nan(value) for name, value in found}
    for name in BY_TERM:
        given[name] = _array(list(getattr(found, name).values()))
    for name in MATRICES:
        given[name] = _array([list(row.values()) for row in getattr(found, name).values()])
    given["n_groups"] = found.n_groups
    given["shape"] = None if found.shape is None else ResidualTests(**found.shape.model_dump())
    return Fit(terms=tuple(found.params), **given)


def _or_nan(value: Any) -> Any:
    return math.nan if value is None else value


def _array(numbers: list[Any]) -> Floats:
    return np.array(numbers, dtype=np.float64)
