"""`raypipe label`: makes the regression, scores, labels and the split, and writes them to ``labels/``.

The stage reads the posts in a few passes, block by block (`raypipe.label.blocks`): eligible posts, the fit, the ranks,
the split, the writing. Between passes it keeps one bit per post, and a few numbers per labelled post.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config
from raypipe.config.learning_options import LabelOptions
from raypipe.errors import InputError
from raypipe.label import schemes
from raypipe.label.age import age_warnings
from raypipe.label.blocks import Block
from raypipe.label.engines import open_engine
from raypipe.label.formula import formula as formulas
from raypipe.label.formula.derived import all_source_columns, is_number
from raypipe.label.formula.design import Design
from raypipe.label.passes import (
    EligiblePosts,
    LabelTotals,
    PostScorer,
    SplitInput,
    draw_columns,
    eligible_posts,
    formula_columns,
    join_split_inputs,
    labels_and_sides,
    make_split_input,
    picture_groups,
)
from raypipe.label.regression import fitting, saved
from raypipe.label.regression.fit_statistics import Fit
from raypipe.label.regression.summary import summary
from raypipe.label.schemes import Labeller, ScoredPosts
from raypipe.label.split import SIDES, Sides, check_sides, count_leaks, split, strata
from raypipe.progress import print_line
from raypipe.tables.record import RunRecord
from raypipe.tables.schemas import labels_schema


def run(config: Config) -> RunRecord:
    """Labels the posts of a root: ``posts/`` and ``images/`` → ``labels/`` and ``labels/_model.json``.

    Each usable post becomes a row, with or without a label. The other posts are counted by reason. Raises ConfigError
    or InputError if options and data do not fit together; nothing is written then.
    """
    storage, options = config.open_storage(), config.label
    schemes.check_options(options)
    formula = _formula(options)
    posts_record = tables.get_record(storage, "posts")
    images_record = tables.find_record(storage, "images")
    if options.eligible != "post":
        images_record = tables.get_record(storage, "images")
    if posts_record.rows_out == 0:
        raise InputError(f"{storage.uri('posts')}: has no posts; there is nothing to label")
    schema = tables.open_dataset(storage, "posts").schema
    _check_columns(options, formula, schema)
    inputs = {"posts": posts_record.run_id} | ({"images": images_record.run_id} if images_record else {})
    settings = config.result_options("seed", "label")
    with tables.begin(
        storage, "labels", command="label", config=settings, inputs=inputs, overwrite=config.overwrite
    ) as labels:
        if labels.record:
            return labels.record
        timer = _StepTimer()
        with open_engine(config, storage, posts_record.rows_out) as engine:
            timer.end_step("start")
            posts = eligible_posts(engine, storage, options)
            timer.end_step("eligible")
            design, fitted = _fit(posts, formula, options)
            warnings = age_warnings(posts, options, formula)
            timer.end_step("fit")
            label_passes = _LabelPasses(posts, options, PostScorer(design, fitted.params if fitted else None))
            labeller = label_passes.learn(fitted.nobs if fitted else None)
            timer.end_step("label")
            split_inputs = label_passes.make_split_input(labeller, config.seed)
            groups = picture_groups(engine, storage) if images_record else None
            rows = join_split_inputs(split_inputs, groups)
            shares = {"val": options.val, "test": options.test}
            sides = split(options.split, rows, **shares)
            check_sides(options.split, rows, sides, **shares)
            timer.end_step("split")
            label_totals = label_passes.write(labels.writer, labeller, _by_block(sides, split_inputs))
        facts = _facts(options, label_totals, fitted.nobs if fitted else None)
        facts["users_on_two_sides"] = count_leaks(sides, rows.users)
        if rows.given is not None and rows.pictures is not None:
            # A column with the splits is used as it is, even if it separates duplicates.
            facts["duplicates_on_two_sides"] = count_leaks(sides, rows.pictures.astype(np.uint64) + np.uint64(1))
        if options.split == "user":
            facts["users_that_random_leaks"] = count_leaks(split("random", rows, **shares), rows.users)
        facts["posts_decided_by_post_id"] = label_totals.n_tied
        facts["warnings"] = warnings
        about = {
            "scheme": options.scheme,
            "formula": formula.text if formula and fitted else None,
            "response": formula.response if formula else None,
            "eligible": options.eligible,
            "quantile": facts["quantile"],
            "group": options.group if options.scheme == "karpathy" else None,
            "thresholds": label_totals.ranges,
            "dropped": dict(label_totals.dropped),
        }
        labels.writer.write_file(saved.MODEL_FILE, saved.model_json(fitted, design, **about))
        if formula and fitted:
            labels.writer.write_file("_summary.txt", summary(formula.response, fitted).encode())
        timer.end_step("write")
        record = labels.commit(
            rows_in=posts_record.rows_out, dropped=label_totals.dropped, seconds=timer.seconds, facts=facts
        )
    _print_summary(formula, fitted, facts)
    return record


def _formula(options: LabelOptions) -> formulas.Formula | None:
    scheme = schemes.LABEL_SCHEMES[options.scheme]
    if not (scheme.regression or scheme.response):
        return None
    formula = formulas.parse(options.formula)
    return formula if scheme.regression else formula.response_only()


def _check_columns(options: LabelOptions, formula: formulas.Formula | None, schema: pa.Schema) -> None:
    """Raises InputError if this run reads a column that posts/ does not have, or that has a wrong type."""
    names = {"post_id": "", "user_id": "", "deleted": ""}
    if formula:
        formulas.check_columns(formula, schema)
        if options.weights:
            names[options.weights] = "label.weights"
    names |= dict.fromkeys(schemes.LABEL_SCHEMES[options.scheme].columns, f"label.scheme {options.scheme}")
    if options.scheme == "column":
        names[str(options.column)] = "label.column"
    if options.split == "time":
        names["created_at"] = "label.split time"
    elif options.split not in ("random", "user"):
        names[options.split] = "label.split"
    for name, option in names.items():
        if name not in schema.names:
            raise InputError(f"{option or 'posts/'}: posts/ has no column {name!r}; it has {', '.join(schema.names)}")
    given = {"label.column": str(options.column)} if options.scheme == "column" else {}
    if options.split not in ("random", "user", "time"):
        given["label.split"] = options.split
    for option, name in given.items():
        kind = schema.field(name).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise InputError(f"{option} {name}: this column of posts/ has {kind}; use a column of text")
    if formula and options.weights and not is_number(schema.field(options.weights).type):
        kind = schema.field(options.weights).type
        raise InputError(f"label.weights: column {options.weights!r} of posts/ has {kind}, but weights must be numbers")


def _fit(
    posts: EligiblePosts, formula: formulas.Formula | None, options: LabelOptions
) -> tuple[Design | None, Fit | None]:
    if formula is None:
        return None, None
    timed = "created_at" in posts.schema.names
    columns = all_source_columns(formula.variables, posts.schema)
    if options.weights:
        columns.append(options.weights)

    def map_blocks(function: Callable[[pa.Table], Any], more: tuple[str, ...] = ()) -> list[Any]:
        return posts.map_blocks(lambda _, rows: function(rows), [*columns, *more], "Fitting")

    design = fitting.make_design(map_blocks, formula, posts.schema, options.weights)
    if not schemes.LABEL_SCHEMES[options.scheme].regression:
        return design, None
    return design, fitting.fit(map_blocks, design, options.cov_type, timed=timed)


class _LabelPasses:
    """The passes after the fit: for the scheme (`learn`), for the split (`make_split_input`), to write (`write`)."""

    def __init__(self, posts: EligiblePosts, options: LabelOptions, scorer: PostScorer) -> None:
        self.posts, self.options, self.scorer = posts, options, scorer
        self.scheme = schemes.LABEL_SCHEMES[options.scheme]
        self._columns = [*formula_columns(scorer.design, posts.schema), *self.scheme.columns]
        if options.scheme == "column":
            self._columns.append(str(options.column))

    def _map_scored(self, function: Callable[[ScoredPosts], Any], columns: list[str], title: str) -> list[Any]:
        scorer = self.scorer
        return self.posts.map_blocks(lambda block, rows: function(scorer.score(block, rows)[0]), columns, title)

    def learn(self, n: int | None) -> Labeller:
        """The labeller of the scheme. `n` is the number of usable posts; if it is None, they are counted first."""
        columns = formula_columns(self.scorer.design, self.posts.schema)

        def map_scored(function: Callable[[ScoredPosts], Any], more: tuple[str, ...] = ()) -> list[Any]:
            return self._map_scored(function, [*columns, *more], "Ranking")

        if n is None:
            n = sum(map_scored(lambda scored: len(scored.posts)))
            if n == 0:
                raise InputError("label: no eligible post has a y; see label.formula")
        return self.scheme.learn(map_scored, n, self.options)

    def make_split_input(self, labeller: Labeller, seed: int) -> list[SplitInput]:
        """The split's input of each block. Raises InputError if there is nothing to learn, or a time is missing."""
        options = self.options

        def block(scored: ScoredPosts) -> SplitInput:
            return make_split_input(scored, labeller(scored), options, seed)

        parts = self._map_scored(block, [*self._columns, *draw_columns(options, self.posts.schema)], "Splitting")
        classes: Counter[str] = Counter()
        for part in parts:
            counted = np.bincount(part.strata.indices.to_numpy(), minlength=len(part.strata.dictionary))
            classes.update(dict(zip(part.strata.dictionary.to_pylist(), counted.tolist(), strict=True)))
        schemes.check_classes(options, classes, sum(part.n for part in parts))
        if n_without_time := sum(part.n_without_time for part in parts):
            raise InputError(
                f"label.split time: {n_without_time:,} labelled posts have no created_at; use random or user"
            )
        return parts

    def write(self, writer: tables.TableWriter, labeller: Labeller, sides: list[Sides]) -> LabelTotals:
        """Stages one file per block, and counts what is in it."""
        scorer, schema = self.scorer, labels_schema(self.scheme.label_type)

        def block(part: Block, posts: pa.Table) -> LabelTotals:
            scored, dropped = scorer.score(part, posts)
            label, side = labels_and_sides(scored, labeller, sides[part.number])
            numbers = [
                pa.nulls(len(label), pa.float64()) if values is None else pa.array(values)
                for values in (scored.y, scored.fitted, scored.score)
            ]
            names = [scored.posts["post_id"], scored.posts["user_id"].cast(pa.string())]
            if len(label):
                writer.write(f"{part.number:05d}", pa.table([*names, *numbers, label, side], schema=schema))
            counted = _count(scored, label, side, dropped)
            counted.ties = labeller.ties(scored) if isinstance(labeller, schemes.RankLabeller) else Counter()
            return counted

        columns = [*self._columns, "post_id", "user_id"]
        parts = self.posts.map_blocks(block, columns, "Writing")
        total, ties = LabelTotals(Counter(), {}, Counter(self.posts.dropped), 0), Counter[tuple[int, bool]]()
        for part in parts:
            total.counts += part.counts
            total.dropped += part.dropped
            ties += part.ties
            total.n += part.n
            for name, (low, high) in part.ranges.items():
                known = total.ranges.setdefault(name, [low, high])
                known[:] = min(known[0], low), max(known[1], high)
        total.ranges = dict(sorted(total.ranges.items()))
        # If all posts with a value are on one side of a threshold, the value decides and post_id does not.
        cuts = {cut for cut, _ in ties}
        total.n_tied = sum(ties[cut, False] + ties[cut, True] for cut in cuts if ties[cut, False] and ties[cut, True])
        return total


def _count(scored: ScoredPosts, label: pa.Array, side: pa.Array, dropped: Counter[str]) -> LabelTotals:
    classes = strata(label)
    counted = pa.table({"label": classes, "split": side}).filter(pc.is_valid(side))
    groups = counted.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    counts = Counter({(group["label"], group["split"]): group["count_all"] for group in groups})
    ranges: dict[str, list[float]] = {}
    values = scored.y if scored.score is None else scored.score
    if values is not None and pa.types.is_string(label.type):
        grouped = pa.table({"label": label, "value": values}).filter(pc.is_valid(label))
        bounds = grouped.group_by("label").aggregate([("value", "min"), ("value", "max")])
        ranges = {row["label"]: [row["value_min"], row["value_max"]] for row in bounds.to_pylist()}
    return LabelTotals(counts, ranges, dropped, len(label))


def _by_block(sides: Sides, split_inputs: list[SplitInput]) -> list[Sides]:
    return np.split(sides, np.cumsum([len(part.keys) for part in split_inputs])[:-1])


def _facts(options: LabelOptions, label_totals: LabelTotals, nobs: int | None) -> dict[str, Any]:
    """Counts for the record and the report: labels by class, posts by split, and both together."""
    classes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    both: dict[str, dict[str, int]] = {}
    for (label, side), n in sorted(label_totals.counts.items()):
        classes[label] += n
        splits[side] += n
        both.setdefault(label, {})[side] = n
    return {
        "scheme": options.scheme,
        "eligible": options.eligible,
        "split": options.split,
        "n_eligible": label_totals.n,
        "n_labelled": label_totals.counts.total(),
        "nobs": nobs,
        "quantile": options.quantile if options.scheme == "residual" else None,
        "labels": dict(classes),
        "splits": dict(splits),
        "labels_by_split": both,
    }


def _print_summary(formula: formulas.Formula | None, fitted: Fit | None, facts: dict[str, Any]) -> None:
    if formula and fitted:
        print_line(f"  {fitting.format_fit(formula.response, fitted)}")
    named = {name or "none": n for name, n in list(facts["labels"].items())[:8]}
    classes = ", ".join(f"{n:,} {name}" for name, n in named.items()) + (" …" if len(facts["labels"]) > 8 else "")
    splits = ", ".join(f"{facts['splits'][side]:,} {side}" for side in SIDES if side in facts["splits"])
    print_line(f"  {facts['n_labelled']:,} labels of {facts['n_eligible']:,} eligible posts: {classes}; {splits}")
    if spared := facts.get("users_that_random_leaks"):
        print_line(f"  no user is in two splits; a random split would put {spared:,} users in two")
    for warning in facts["warnings"]:
        print_line(f"  {warning}")
    if n_tied := facts["posts_decided_by_post_id"]:
        print_line(f"  {n_tied:,} posts have the same value as a post of another class; post_id decides their class")
    if copies := facts.get("duplicates_on_two_sides"):
        print_line(
            f"  {copies:,} pictures are in two splits by {facts['split']}; random, user and time keep each in one"
        )
    if leaked := facts["users_on_two_sides"]:
        print_line(f"  {leaked:,} users have posts in two splits; --label.split user keeps each in one")


class _StepTimer:
    """Measures the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def end_step(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now
