"""Writes and reads ``_model.json``: a fit and what its formula has learned, to score new posts with.

Floats are stored exactly. Of the file, only the formula is evaluated, after the same check as any formula
(`raypipe.label.formula.allowed`). What it has learned is numbers and names of classes.
"""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from formulaic import ModelSpec
from formulaic.model_spec import ModelSpecs
from formulaic.parser.types import Factor
from scipy import stats

from raypipe import tables
from raypipe.errors import ConfigError, InputError, one_line
from raypipe.label.formula.allowed import parse_checked
from raypipe.label.formula.derived import all_source_columns
from raypipe.label.formula.design import Design, levels_of
from raypipe.label.formula.formula import Floats, Formula, check_columns, parse
from raypipe.label.regression.fit_statistics import Fit
from raypipe.label.regression.saved_fit import BY_TERM, MATRICES, read_fit
from raypipe.label.regression.summary import summary
from raypipe.storage import Storage
from raypipe.tables.record import finite

MODEL_FILE = "_model.json"

# A spline has at most 1,000 knots and a few at its ends. A square matrix is made of them.
_MOST_LEARNED = 2_000


def model_json(fitted: Fit | None, design: Design | None = None, **more: Any) -> bytes:
    """The bytes of ``_model.json``: `more`, then the fit's statistics by term name; null if a number is not finite."""
    values = dict(more)
    if fitted is not None:
        found = asdict(fitted)
        terms = found.pop("terms")
        for name in BY_TERM:
            found[name] = dict(zip(terms, found[name].tolist(), strict=True))
        for name in MATRICES:
            rows = found[name].tolist()
            found[name] = {term: dict(zip(terms, row, strict=True)) for term, row in zip(terms, rows, strict=True)}
        values |= found
    if design is not None:
        values |= {"weights": design.weights, "learned": _learned(design)}
    return json.dumps(finite(values), indent=2, ensure_ascii=False).encode()


def _learned(design: Design) -> dict[str, Any]:
    """Learned values of terms: `transforms` (means, knots, …) and `levels` of categoricals, by factor."""
    sides = (design.spec.lhs, design.spec.rhs)
    transforms = {name: _encoded(state) for side in sides for name, state in side.transform_state.items()}
    return {
        "transforms": transforms,
        "levels": {factor: list(known) for factor, known in levels_of(design.spec).items()},
    }


def _encoded(value: Any) -> Any:
    if isinstance(value, dict):
        # Orthogonal polynomials number their coefficients.
        if value and all(isinstance(key, int) for key in value):
            return {"by_number": [_encoded(value[key]) for key in sorted(value)]}
        return {str(key): _encoded(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return _plain(value)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        if len(value) > _MOST_LEARNED:
            raise ValueError(f"learned: {len(value):,} numbers of one transform; at most {_MOST_LEARNED:,}")
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {"by_number"}:
        return dict(enumerate(map(_decoded, value["by_number"])))
    if set(value) == {"array"}:
        found = np.array(value["array"])
        if found.dtype.kind not in "biuf" or found.size > _MOST_LEARNED:
            raise ValueError("learned: an array must have only a few numbers")
        return found
    return {key: _decoded(item) for key, item in value.items()}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class SavedModel:
    """A fitted regression that was read from ``labels/_model.json``."""

    design: Design
    fit: Fit

    def summary(self) -> str:
        """The fit as a text table in the layout of statsmodels' `summary()`."""
        return summary(self.design.formula.response, self.fit)

    def predict(self, posts: pa.Table | pd.DataFrame, alpha: float = 0.05) -> pd.DataFrame:
        """y, score and statsmodels' `get_prediction().summary_frame()` for new posts, indexed by their row.

        Columns: ``y``, ``mean`` (the fitted value), ``score`` = y − mean, ``mean_se``, ``mean_ci_lower``,
        ``mean_ci_upper``, ``obs_ci_lower``, ``obs_ci_upper`` at 1 − `alpha`. If a post has no y, ``y`` and ``score``
        are NaN. Posts that cannot be predicted (see `Design.matrices`) are left out. Raises InputError if a column is
        missing, a value is beyond a spline's bounds, or the formula makes other terms than the model has.
        """
        if isinstance(posts, pd.DataFrame):
            posts = pa.Table.from_pandas(posts, preserve_index=False)
        design = _without_y(self.design)
        if design.weights not in posts.schema.names:
            # Without a column of weights, each post has weight 1.
            design = replace(design, weights=None)
        check_columns(design.formula, posts.schema)
        try:
            matrices = design.matrices(posts)
            y = self._known_y(posts)[matrices.kept]
        except Exception as error:
            reason = str(error.__cause__ or error).partition("\n")[0]
            raise InputError(
                f"label.formula: {self.design.formula.text!r} cannot be applied to these posts: {reason}"
            ) from error
        X, fit = matrices.X, self.fit
        mean = X @ fit.params
        variance = np.einsum("ij,jk,ik->i", X, fit.cov_params, X)
        weights = 1.0 if matrices.weights is None else matrices.weights
        reference = stats.t(fit.df_resid) if fit.cov_type == "nonrobust" else stats.norm()
        q = reference.ppf(1 - alpha / 2)
        se, spread = np.sqrt(variance), np.sqrt(variance + fit.scale / weights)
        return pd.DataFrame(
            {
                "y": y,
                "mean": mean,
                "score": y - mean,
                "mean_se": se,
                "mean_ci_lower": mean - q * se,
                "mean_ci_upper": mean + q * se,
                "obs_ci_lower": mean - q * spread,
                "obs_ci_upper": mean + q * spread,
            },
            index=pd.Index(np.flatnonzero(matrices.kept), name="row"),
        )

    def _known_y(self, posts: pa.Table) -> Floats:
        """y of each post, NaN if it is not known."""
        y = np.full(len(posts), np.nan)
        alone = self.design.formula.response_only()
        if set(all_source_columns(alone.variables, posts.schema)) <= set(posts.schema.names):
            lhs = self.design.spec.lhs
            rhs = ModelSpec(formula=alone.parsed.rhs, na_action="ignore", output="numpy")
            found = Design(alone, ("Intercept",), ModelSpecs(lhs=lhs, rhs=rhs)).matrices(posts)
            y[found.kept] = found.y
        return y


def _without_y(design: Design) -> Design:
    """The same terms with 1 in place of y, for posts of which only the terms are known."""
    formula = parse(f"1 ~ {design.formula.text.partition('~')[2]}")
    lhs = ModelSpec(formula=formula.parsed.lhs, na_action="ignore", output="numpy")
    return replace(design, formula=formula, spec=ModelSpecs(lhs=lhs, rhs=design.spec.rhs))


def load_model(root: str | Storage) -> SavedModel:
    """Reads the regression of a run's ``labels/``.

    Raises InputError if the scheme has fitted none, or the file contains values that `label` does not write: a
    formula that is not allowed, or a text in place of a number. Raises StageError without labels.
    """
    storage = root if isinstance(root, Storage) else Storage(root)
    tables.get_record(storage, "labels")
    values, where = read_model_file(storage), storage.uri("labels", MODEL_FILE)
    try:
        if values.get("params") is not None:
            return SavedModel(_design(values), read_fit(values))
    except ConfigError as error:
        raise InputError(
            f"{where}: {str(error).replace('label.formula', 'formula', 1)}", extra_lines=error.extra_lines
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: was not written by `raypipe label`: {one_line(error)}; run it again") from error
    raise InputError(f"{where}: scheme {values.get('scheme')!r} has no regression; use residual or continuous")


def read_model_file(storage: Storage) -> dict[str, Any]:
    """The contents of ``labels/_model.json``, also for a scheme without a regression.

    Raises InputError if the file is damaged. The only check is that it is a JSON object.
    """
    try:
        found = json.loads(storage.read(f"labels/{MODEL_FILE}"))
        if not isinstance(found, dict):
            raise TypeError(f"it is a {type(found).__name__}")
    except (TypeError, ValueError, RecursionError) as error:
        where = storage.uri("labels", MODEL_FILE)
        raise InputError(f"{where}: was not written by `raypipe label`: {one_line(error)}; run it again") from error
    return found


def _check_learned(formula: Formula, weights: Any, transforms: dict[str, Any], levels: dict[str, Any]) -> None:
    """Raises ValueError if something learned has a wrong type, or a name outside the formula (names are evaluated)."""
    factors = {str(factor.expr): factor for factor in formula.factors}
    python = [text for text, factor in factors.items() if factor.eval_method is Factor.EvalMethod.PYTHON]
    calls = {
        ast.unparse(node) for text in python for node in ast.walk(parse_checked(text)[0]) if isinstance(node, ast.Call)
    }
    strange = [*(set(transforms) - calls), *(set(levels) - set(factors))]
    if strange:
        raise ValueError(f"learned: {strange[0]!r} is not part of the formula")
    if not all(isinstance(state, dict) for state in transforms.values()):
        raise ValueError("learned.transforms: learned values must have names")
    if not all(isinstance(known, list) for known in levels.values()):
        raise ValueError("learned.levels: the classes of a factor must be a list")
    if any(isinstance(level, (list, dict)) for known in levels.values() for level in known):
        raise ValueError("learned.levels: a class must be a text or a number")
    if not isinstance(weights, str | None):
        raise ValueError("weights: must be the name of a column")


def _design(values: dict[str, Any]) -> Design:
    formula = parse(values["formula"])
    learned = values["learned"]
    levels: dict[str, list[Any]] = learned["levels"]
    _check_learned(formula, values["weights"], learned["transforms"], levels)

    def spec(side: Any) -> ModelSpec:
        kinds = {name: (Factor.Kind.CATEGORICAL, {"categories": known}) for name, known in levels.items()}
        return ModelSpec(
            formula=side,
            transform_state={name: _decoded(state) for name, state in learned["transforms"].items()},
            encoder_state=kinds,
            na_action="ignore",
            output="numpy",
        )

    specs = ModelSpecs(lhs=spec(formula.parsed.lhs), rhs=spec(formula.parsed.rhs))
    return Design(
        formula,
        tuple(values["params"]),
        specs,
        values["weights"],
        levels={factor: tuple(known) for factor, known in levels.items()},
    )
