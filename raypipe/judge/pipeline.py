"""`raypipe judge`: measures what a root's labels are worth before training, and writes the result to ``judge/``."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pandas as pd

from raypipe import tables
from raypipe.config import Config
from raypipe.config.learning_options import LabelOptions
from raypipe.errors import ConfigError, InputError
from raypipe.judge import baseline, label_stability, overlap
from raypipe.judge.post_sample import sample_posts
from raypipe.label.engines import open_engine
from raypipe.label.formula.derived import all_source_columns
from raypipe.label.formula.formula import check_columns, parse
from raypipe.label.regression.saved import read_model_file
from raypipe.progress import print_line
from raypipe.tables.record import RunRecord, finite

JUDGE_FILE = "judge.json"

# The paper's values, for labels of a scheme that has none.
_QUANTILE, _GROUP = 0.1, 100
_FEWEST_OF_ALL = 0.9

OUTLOOK = ("log10(1 + comments)", "log10(1 + caption_length)", "C(hour) + C(weekday)", "log10(1 + age_days)")
"""Terms of the paper's outlook (section 6): comments, captions, time, and the age when likes were read. Each file
configs/outlook-*.yaml adds one of them to the paper's formula.
"""


def run(config: Config) -> RunRecord:
    """Judges the labels of a root: ``labels/`` and ``posts/`` → ``judge/judge.json``.

    On a sample of `judge.sample` posts: a metadata-only baseline, how far schemes agree, and how many labels stay under
    a bootstrap and under other formulas. Raises InputError if there is nothing to judge.
    """
    storage, options = config.open_storage(), config.judge
    labels, posts = tables.get_record(storage, "labels"), tables.get_record(storage, "posts")
    schema = tables.open_dataset(storage, "posts").schema
    model = read_model_file(storage)
    if labels.inputs["posts"] != posts.run_id:
        raise InputError(
            f"{storage.uri('labels')}: was made from other posts than {storage.uri('posts')}; run label again"
        )
    formulas = _formulas(config, model, schema)
    columns = {"user_id", "followers", "likes", "n_hashtags", "created_at", "collected_at", "revisited_at", "comments"}
    columns |= {model["weights"]} if model.get("weights") else set()
    columns |= {column for text in formulas for column in all_source_columns(parse(text).variables, schema)}
    settings = config.result_options("seed", "judge")
    inputs = {"labels": labels.run_id, "posts": posts.run_id}
    with tables.begin(
        storage, "judge", command="judge", config=settings, inputs=inputs, overwrite=config.overwrite
    ) as judge_table:
        if judge_table.record:
            return judge_table.record
        started = time.perf_counter()
        with open_engine(config, storage, posts.rows_out) as engine:
            sample = sample_posts(engine, storage, options.sample, config.seed, sorted(columns & set(schema.names)))
        if sample.empty:
            raise InputError(f"{storage.uri('labels')}: has no posts; there is nothing to judge")
        read = time.perf_counter()
        found = _measure(config, model, sample, formulas)
        judge_table.writer.write_file(JUDGE_FILE, json.dumps(finite(found), indent=2, ensure_ascii=False).encode())
        seconds = {"read": read - started, "judge": time.perf_counter() - read}
        record = judge_table.commit(rows_in=0, rows_out=0, seconds=seconds, facts={"n": len(sample)})
    _print_summary(found)
    return record


def _formulas(config: Config, model: dict[str, Any], schema: Any) -> list[str]:
    """The fitted formula, then `judge.formulas`, or if these are empty the paper's outlook as far as columns allow."""
    first = model.get("formula")
    if first is None:
        return []
    check_columns(parse(first), schema)
    given = config.judge.formulas
    if given:
        with _errors_name_option():
            for text in given:
                check_columns(parse(text), schema)
        return [first, *given]
    names = set(schema.names)
    known = [term for term in OUTLOOK if set(all_source_columns(parse(f"1 ~ {term}").variables, schema)) <= names]
    own = _terms(first)
    return [first, *(f"{first} + {term}" for term in known if not _terms(f"1 ~ 0 + {term}") <= own)]


def _terms(formula: str) -> set[frozenset[str]]:
    """The terms of a formula, each as the expressions of its factors without regard to spaces."""
    return {
        frozenset("".join(str(factor.expr).split()) for factor in term.factors) for term in parse(formula).parsed.rhs
    }


def _measure(config: Config, model: dict[str, Any], sample: pd.DataFrame, formulas: list[str]) -> dict[str, Any]:
    scheme, q = str(model["scheme"]), _QUANTILE if model["quantile"] is None else float(model["quantile"])
    weights = model.get("weights")
    found: dict[str, Any] = {
        "scheme": scheme,
        "formula": model.get("formula"),
        "quantile": q,
        "n": len(sample),
        "baseline": baseline.as_json(baseline.metadata_baselines(sample, config.seed)),
        "explained": baseline.metadata_r_squared(sample, config.seed),
        "overlap": [],
        "bootstrap": None,
        "formulas": [],
        "left_out": {},
    }
    scored = sample[sample["score"].notna()]
    if not formulas:
        # Hashtags and other classes cannot be compared with the schemes.
        comparable = overlap.are_top_and_bottom(sample["label"]) or sample["y"].notna().any()
        scored = _score_by_paper(sample) if comparable else sample.head(0)
    if scored.empty:
        return found
    found["overlap"] = [
        asdict(item) for item in overlap.overlaps(overlap.labels_by_scheme(scored, q, model.get("group") or _GROUP))
    ]
    if not formulas:
        return found
    usable, found["left_out"] = _usable(config, formulas, scored, q, weights)
    with _errors_name_option():
        found["formulas"] = [asdict(item) for item in label_stability.compare_formulas(scored, usable, q, weights)]
    stability = label_stability.bootstrap(scored, formulas[0], q, config.judge.bootstraps, config.seed, weights)
    found["bootstrap"] = asdict(stability)
    return found


@contextmanager
def _errors_name_option() -> Iterator[None]:
    """Names `judge.formulas` in errors about a formula, because that option gave it."""
    try:
        yield
    except (ConfigError, InputError) as error:
        raise type(error)(
            str(error).replace("label.formula", "judge.formulas"), extra_lines=error.extra_lines
        ) from error


def _score_by_paper(sample: pd.DataFrame) -> pd.DataFrame:
    """The posts scored by the paper's formula, for labels of a scheme without a fit; no row if it cannot be fitted."""
    if sample[["likes", "followers", "n_hashtags"]].isna().all().any():
        return sample.head(0)
    try:
        return label_stability.score_by(sample, LabelOptions().formula)
    except InputError:
        # All have equal followers, or there are too few posts, so nothing can be compared.
        return sample.head(0)


def _usable(
    config: Config, formulas: list[str], posts: pd.DataFrame, q: float, weights: str | None
) -> tuple[list[str], dict[str, str]]:
    """The formulas that can be fitted to these posts, and why others cannot. Formulas from the options are kept."""
    if config.judge.formulas:
        return formulas, {}
    usable, left_out = formulas[:1], dict[str, str]()
    for text in formulas[1:]:
        try:
            # A column that is empty or the same in all posts cannot be fitted. A column that few posts have would
            # limit the comparison of all formulas to these posts.
            results = label_stability.compare_formulas(posts, [*usable, text], q, weights)
            if results[0].nobs < _FEWEST_OF_ALL * len(posts):
                left_out[text] = f"only {results[0].nobs:,} of {len(posts):,} posts have a value in each of its columns"
            else:
                usable.append(text)
        except InputError as error:
            left_out[text] = str(error)
    return usable, left_out


def _print_summary(found: dict[str, Any]) -> None:
    for item in found["baseline"]:
        print_line(
            f"  metadata alone predict {item['label']} with a ROC AUC of {item['auc']:.3f} "
            f"({item['low']:.3f} to {item['high']:.3f}); chance is 0.5"
        )
    if found["explained"] is not None:
        print_line(f"  metadata alone explain {100 * found['explained']:.1f} % of the labels' variance; it should be 0")
    if found["bootstrap"]:
        mean, low, high = found["bootstrap"]["same"]
        print_line(
            f"  {100 * mean:.1f} % of the labels stay under a bootstrap of {found['bootstrap']['unit']} "
            f"({100 * low:.1f} to {100 * high:.1f} %)"
        )
    for item in found["overlap"]:
        if item["first"] == "labels" and item["second"] in ("karpathy", "likes") and item["second"] != found["scheme"]:
            by = "Karpathy's halves" if item["second"] == "karpathy" else "deciles of likes alone"
            same, other = f"{100 * item['same']:.1f} %", f"{100 * item['opposite']:.1f} %"
            print_line(f"  {by} give {same} of the posts the same label, {other} the opposite")
    for item in found["formulas"][1:]:
        first = found["formulas"][0]
        gain = "another y, " if item["aic"] is None else f"AIC {item['aic'] - first['aic']:+,.1f}, "
        print_line(f"  {item['formula']}: {gain}{100 * item['kept']['same']:.1f} % of the labels stay")
