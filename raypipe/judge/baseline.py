"""Tests whether metadata alone predict the label, without the picture. They should not.

A logistic regression of each class on a post's metadata (followers, hashtags, hour, weekday), with smooth terms, is
fitted to four fifths of the users and predicts the others, five times. An area under the ROC curve of 0.5 means that
metadata predict nothing. A classifier of pictures is worth only what it adds to that.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import formulaic
import numpy as np
import numpy.typing as npt
import pandas as pd
import statsmodels.api as sm

from raypipe.label.formula.formula import Floats
from raypipe.statistics.clustered import clustered_auc_interval, number_users
from raypipe.statistics.ranks import roc_auc

FOLDS = 5
MOST_CLASSES = 20
"""Maximum number of classes. The most frequent ones are used."""

_FEW_VALUES = 9


@dataclass(frozen=True)
class MetadataBaseline:
    """How well metadata predict one class against the others: the area under the ROC curve and its 95 % interval."""

    label: str
    n: int
    positives: int
    auc: float
    low: float
    high: float
    covariates: tuple[str, ...]


def metadata_baselines(posts: pd.DataFrame, seed: int) -> list[MetadataBaseline]:
    """One per class (of two: the last in the alphabet) or hashtag; empty if labels are numbers or all the same."""
    labelled = posts[posts["label"].notna()]
    if labelled.empty or isinstance(labelled["label"].iloc[0], float):
        return []
    X, covariates = _covariates(labelled)
    users = number_users(labelled["user_id"])
    folds = _folds(users, seed)
    found = []
    for name, truth in _binary_targets(labelled["label"]).items():
        score = _held_out(X, truth, folds)
        auc, ends = roc_auc(score, truth), clustered_auc_interval([score], truth, users)
        found.append(
            MetadataBaseline(
                label=name,
                n=len(truth),
                positives=int(truth.sum()),
                auc=float("nan") if auc is None else auc,
                low=ends[0] if ends else float("nan"),
                high=ends[1] if ends else float("nan"),
                covariates=covariates,
            )
        )
    return found


def metadata_r_squared(posts: pd.DataFrame, seed: int) -> float | None:
    """R² of metadata for numeric labels, in users that the fit has not seen. It is below 0 if the fit predicts worse
    than the mean, and None if labels are not numbers.
    """
    labelled = posts[posts["label"].notna()]
    if labelled.empty or not isinstance(labelled["label"].iloc[0], float):
        return None
    X, _ = _covariates(labelled)
    y, folds = labelled["label"].to_numpy(float), _folds(number_users(labelled["user_id"]), seed)
    error = total = 0.0
    for fold in range(FOLDS):
        held = folds == fold
        if not held.any() or held.all():
            continue
        params = np.linalg.lstsq(X[~held], y[~held], rcond=None)[0]
        error += float(np.sum((y[held] - X[held] @ params) ** 2))
        total += float(np.sum((y[held] - y[~held].mean()) ** 2))
    return 1 - error / total if total else None


def _binary_targets(labels: pd.Series) -> dict[str, npt.NDArray[np.bool_]]:
    """By class or hashtag: whether each post is of the class, or has the hashtag."""
    if isinstance(labels.iloc[0], str):
        counts = labels.value_counts()
        chosen = sorted(counts.index)[1:] if len(counts) == 2 else sorted(counts.index[:MOST_CLASSES])
        return {name: labels.eq(name).to_numpy() for name in chosen} if len(counts) > 1 else {}
    tags = labels.map(set)
    names = tags.explode().value_counts().index[:MOST_CLASSES]
    carried = {str(tag): np.array([tag in own for own in tags]) for tag in sorted(names)}
    return {tag: truth for tag, truth in carried.items() if not truth.all()}


def _covariates(posts: pd.DataFrame) -> tuple[Floats, tuple[str, ...]]:
    known = {
        "followers": np.log10(1 + posts["followers"].to_numpy(float)),
        "n_hashtags": np.log10(1 + posts["n_hashtags"].to_numpy(float)),
    }
    when = posts["created_at"]
    known_time = when.notna().to_numpy()
    terms = ["bs(followers, df=5, extrapolation='clip')", "bs(n_hashtags, df=4, extrapolation='clip')"]
    names, columns = ["followers", "n_hashtags"], ["followers", "n_hashtags"]
    frame = pd.DataFrame(known)
    if known_time.any():
        # An angle makes neighbouring hours close, also at midnight. Posts of unknown time have their own weekday.
        angle = (when.dt.hour + when.dt.minute / 60).to_numpy(float) * 2 * np.pi / 24
        weekday = when.dt.weekday.map(str, na_action="ignore").fillna("unknown").to_numpy()
        sin, cos = (np.where(known_time, wave(angle), 0.0) for wave in (np.sin, np.cos))
        frame = frame.assign(sin=sin, cos=cos, weekday=weekday)
        terms += ["sin", "cos", "weekday"]
        names += ["hour", "hour", "weekday"]
        columns += ["sin", "cos", "weekday"]
    # A curve needs several distinct values. A column that is the same in all posts is left out.
    kept = [
        term if name not in known or frame[name].nunique() > _FEW_VALUES else name
        for term, name in zip(terms, columns, strict=True)
        if frame[name].nunique() > 1
    ]
    used = [shown_name for shown_name, name in zip(names, columns, strict=True) if frame[name].nunique() > 1]
    made = formulaic.model_matrix(" + ".join(kept) or "1", frame, context={})
    return np.asarray(made, dtype=np.float64), tuple(dict.fromkeys(used))


def _folds(users: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    # Folds are by user, as the posts of one user have more in common than their metadata.
    return np.random.default_rng(seed).integers(0, FOLDS, int(users.max()) + 1)[users]


def _held_out(X: Floats, truth: npt.NDArray[np.bool_], folds: npt.NDArray[np.int64]) -> Floats:
    """Each row's linear predictor from a fit to the other folds, centred by fold so that all folds rank together."""
    score = np.zeros(len(truth))
    for fold in range(FOLDS):
        held = folds == fold
        if not held.any() or truth[~held].all() or not truth[~held].any():
            continue
        with warnings.catch_warnings():
            # If metadata separate a class completely, its fit is not finite, but its ranking is still valid.
            warnings.simplefilter("ignore")
            fit = sm.GLM(truth[~held].astype(float), X[~held], family=sm.families.Binomial()).fit(maxiter=50)
        score[held] = X[held] @ fit.params - np.mean(X[~held] @ fit.params)
    return score


def as_json(found: list[MetadataBaseline]) -> list[dict[str, Any]]:
    """The baselines as `judge.json` has them."""
    return [{**vars(item), "covariates": list(item.covariates)} for item in found]
