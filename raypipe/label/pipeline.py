"""`raypipe label`: the regression over Ray Data, then scores, labels and the split, written to ``labels/``."""

from __future__ import annotations

import pickle
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config, LabelOptions
from raypipe.errors import InputError, RaypipeError, StageError, one_line
from raypipe.label import formula as formulas
from raypipe.label import model, schemes
from raypipe.label.eligible import IMAGE_COLUMNS, Eligible, image_verdicts, nothing_eligible, select
from raypipe.label.inference import Fit
from raypipe.label.split import split, strata
from raypipe.progress import Progress, say
from raypipe.records import RunRecord
from raypipe.runtime import cause, ray_session
from raypipe.schemas import labels_schema
from raypipe.storage import Storage

T = TypeVar("T")

BLOCK_ROWS = 131_072
"""Posts in one block: what a task holds in memory at a time."""

_FILE_ROWS = 1_000_000


def run(config: Config) -> RunRecord:
    """Label the posts of a root: ``posts/`` and ``images/`` → ``labels/`` and ``labels/_model.json``.

    Each eligible post becomes a row, with or without a label; the others are counted by reason. Raises ConfigError or
    InputError where options and data do not go together; nothing is written then.
    """
    storage, options = config.open_storage(), config.label
    schemes.check_options(options)
    formula = _formula(options)
    posts = tables.get_record(storage, "posts")
    images = tables.find_record(storage, "images")
    if options.eligible != "post":
        images = tables.get_record(storage, "images")
    if posts.rows_out == 0:
        raise InputError(f"{storage.uri('posts')}: holds no post; there is nothing to label")
    schema = tables.open_dataset(storage, "posts").schema
    columns = _columns(options, formula, schema)
    inputs = {"posts": posts.run_id} | ({"images": images.run_id} if images else {})
    settings = config.result_options("seed", "label")
    with tables.begin(
        storage, "labels", command="label", config=settings, inputs=inputs, overwrite=config.overwrite
    ) as labels:
        if labels.record:
            return labels.record
        clock = _Clock()
        verdicts = None
        if images:
            verdicts = image_verdicts(tables.read_table(storage, "images", IMAGE_COLUMNS), options.eligible)
        with ray_session(config):
            blocks = _RayBlocks(storage, columns, posts.rows_out, options.eligible, verdicts)
            clock.lap("start")
            design, fitted = _fit(blocks, formula, schema, options)
            clock.lap("fit")
            scored, sha256, dropped = _score(blocks, design, fitted)
        clock.lap("score")
        label = schemes.SCHEMES[options.scheme].label(scored, options)
        clock.lap("label")
        sides = split(
            options.split, scored.posts, sha256, strata(label), val=options.val, test=options.test, seed=config.seed
        )
        clock.lap("split")
        _write(labels.writer, scored, label, sides)
        facts = _facts(options, label, sides, fitted.nobs if fitted else None)
        about = {
            "scheme": options.scheme,
            "formula": formula.text if formula and fitted else None,
            "response": formula.response if formula else None,
            "eligible": options.eligible,
            "quantile": facts["quantile"],
            "thresholds": schemes.thresholds(label, scored.y if scored.score is None else scored.score),
            "dropped": dict(dropped),
        }
        labels.writer.write_file("_model.json", model.as_json(fitted, **about))
        clock.lap("write")
        record = labels.commit(rows_in=posts.rows_out, dropped=dropped, seconds=clock.seconds, facts=facts)
    _tell(formula, fitted, facts)
    return record


def _formula(options: LabelOptions) -> formulas.Formula | None:
    scheme = schemes.SCHEMES[options.scheme]
    if not (scheme.regression or scheme.response):
        return None
    formula = formulas.parse(options.formula)
    return formula if scheme.regression else formula.response_only()


def _columns(options: LabelOptions, formula: formulas.Formula | None, schema: pa.Schema) -> list[str]:
    """The columns of posts/ that this run reads; InputError where one is not there."""
    names = {"post_id": "", "user_id": "", "deleted": ""}
    if formula:
        formulas.check_columns(formula, schema)
        names |= dict.fromkeys(formula.variables, "label.formula")
    names |= dict.fromkeys(schemes.SCHEMES[options.scheme].columns, f"label.scheme {options.scheme}")
    if options.scheme == "column":
        names[str(options.column)] = "label.column"
    if options.split == "time":
        names["created_at"] = "label.split time"
    elif options.split not in ("random", "user"):
        names[options.split] = "label.split"
    for name, option in names.items():
        if name not in schema.names:
            raise InputError(f"{option or 'posts/'}: posts/ has no column {name!r}; it has {', '.join(schema.names)}")
    return list(names)


@dataclass
class _RayBlocks:
    """The posts of a root as a stream of blocks on Ray, read anew in each pass, so that memory stays bounded."""

    storage: Storage
    columns: list[str]
    n_posts: int
    rule: str
    verdicts: pa.Table | None
    dropped: Counter[str] = field(init=False, default_factory=Counter)
    _shared: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        import ray

        self._shared = ray.put(self.verdicts)

    def eligible(self, function: Callable[[Eligible], T], title: str) -> list[T]:
        """`function` of each block's eligible posts, in order; InputError where no post at all is eligible."""
        import ray
        import ray.data

        shared = self._shared

        def block(rows: pa.Table) -> pa.Table:
            found = select(rows, ray.get(shared))
            result = pickle.dumps((function(found), len(found.posts), found.dropped), protocol=5)
            return pa.table({"n": [len(rows)], "result": pa.array([result], pa.large_binary())})

        stream = ray.data.read_parquet(
            tables.data_paths(self.storage, "posts"), filesystem=self.storage.filesystem, columns=self.columns
        ).map_batches(block, batch_size=BLOCK_ROWS, batch_format="pyarrow", zero_copy_batch=True)
        stream.context.execution_options.preserve_order = True
        results: list[tuple[T, int, Counter[str]]] = []
        try:
            with Progress(title, self.n_posts, "posts") as progress:
                for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow"):
                    results += [pickle.loads(item) for item in batch["result"].to_pylist()]
                    progress.advance(sum(batch["n"].to_pylist()))
        except Exception as error:  # Ray wraps whatever a block met; the line shows what that was
            first = cause(error)
            if isinstance(first, RaypipeError):
                raise first from error
            raise StageError(f"{self.storage.uri('posts')}: cannot be processed: {one_line(first)}") from error
        self.dropped = sum((dropped for _, _, dropped in results), Counter())
        if not any(n for _, n, _ in results):
            raise InputError(nothing_eligible(self.rule, self.n_posts, self.dropped))
        return [result for result, _, _ in results]


def _fit(
    blocks: _RayBlocks, formula: formulas.Formula | None, schema: pa.Schema, options: LabelOptions
) -> tuple[formulas.Design | None, Fit | None]:
    if formula is None:
        return None, None

    def over(function: Callable[[pa.Table], T]) -> list[T]:
        return blocks.eligible(lambda block: function(block.posts), "Fitting")

    design = model.make_design(over, formula, schema)
    if not schemes.SCHEMES[options.scheme].regression:
        return design, None
    return design, model.fit(over, design, options.cov_type)


def _score(
    blocks: _RayBlocks, design: formulas.Design | None, fitted: Fit | None
) -> tuple[schemes.Scored, pa.ChunkedArray, Counter[str]]:
    """Eligible posts with what the scheme needs, their pictures' hashes, and how many fell out, by reason."""
    params = fitted.params if fitted else None

    def score(block: Eligible) -> Any:
        if design is None:
            return block.posts, block.sha256, None, None, Counter()
        matrices = design.matrices(block.posts)
        kept = pa.array(matrices.kept)
        explained = None if params is None else model.predict(matrices.X, params)
        return block.posts.filter(kept), block.sha256.filter(kept), matrices.y, explained, matrices.dropped

    posts, hashes, y, explained, counts = zip(*blocks.eligible(score, "Scoring"), strict=True)
    sha256 = pa.chunked_array([chunk for part in hashes for chunk in part.chunks], pa.string())
    all_y = np.concatenate(y) if design else None
    all_fitted = np.concatenate(explained) if fitted else None
    difference = all_y - all_fitted if all_y is not None and all_fitted is not None else None
    scored = schemes.Scored(pa.concat_tables(posts), all_y, all_fitted, difference)
    return scored, sha256, sum(counts, blocks.dropped)


def _write(writer: tables.TableWriter, scored: schemes.Scored, label: pa.Array, sides: pa.Array) -> None:
    n = len(scored.posts)
    schema = labels_schema(label.type)
    numbers = [
        pa.nulls(n, pa.float64()) if values is None else pa.array(values)
        for values in (scored.y, scored.fitted, scored.score)
    ]
    rows = pa.table([scored.posts["post_id"], scored.posts["user_id"], *numbers, label, sides], schema=schema)
    for unit, start in enumerate(range(0, n, _FILE_ROWS)):
        writer.write(f"{unit:05d}", rows.slice(start, _FILE_ROWS))


def _facts(options: LabelOptions, label: pa.Array, sides: pa.Array, nobs: int | None) -> dict[str, Any]:
    """Counts for the record and the report: labels by class, posts by split, and both together."""
    counted = pa.table({"label": strata(label), "split": sides}).filter(pc.is_valid(sides))
    groups = counted.group_by(["label", "split"]).aggregate([([], "count_all")]).to_pylist()
    classes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    both: dict[str, dict[str, int]] = {}
    for group in sorted(groups, key=lambda group: (group["label"], group["split"])):
        classes[group["label"]] += group["count_all"]
        splits[group["split"]] += group["count_all"]
        both.setdefault(group["label"], {})[group["split"]] = group["count_all"]
    return {
        "scheme": options.scheme,
        "eligible": options.eligible,
        "n_eligible": len(label),
        "n_labelled": len(counted),
        "nobs": nobs,
        "quantile": options.quantile if options.scheme == "residual" else None,
        "labels": dict(classes),
        "splits": dict(splits),
        "labels_by_split": both,
    }


def _tell(formula: formulas.Formula | None, fitted: Fit | None, facts: dict[str, Any]) -> None:
    if formula and fitted:
        say(f"  {model.describe(formula.response, fitted)}")
    named = {name or "none": n for name, n in list(facts["labels"].items())[:8]}
    classes = ", ".join(f"{n:,} {name}" for name, n in named.items()) + (" …" if len(facts["labels"]) > 8 else "")
    splits = ", ".join(
        f"{facts['splits'][side]:,} {side}" for side in ("train", "val", "test") if side in facts["splits"]
    )
    say(f"  {facts['n_labelled']:,} labels of {facts['n_eligible']:,} eligible posts: {classes}; {splits}")


class _Clock:
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now
