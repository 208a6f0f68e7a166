"""The passes of `label` over the posts: which posts take part, their y, score and label, and what the split needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.config.learning import LabelOptions
from raypipe.errors import InputError, StageError
from raypipe.label.blocks import Block, plan_blocks
from raypipe.label.eligible import (
    Verdicts,
    count,
    image_columns,
    image_verdicts,
    nothing_eligible,
    post_codes,
    post_columns,
)
from raypipe.label.engines import Engine
from raypipe.label.formula.derived import columns_of_all
from raypipe.label.formula.design import Design
from raypipe.label.formula.formula import Floats
from raypipe.label.ranking.names import Words, look_up, name_hashes
from raypipe.label.regression.model import predict
from raypipe.label.schemes import Labeller, Scored
from raypipe.label.split import SIDES, Labelled, sides_of, strata
from raypipe.storage import Storage

T = TypeVar("T")

_PICTURES = ["post_id", "sha256"]


@dataclass(frozen=True)
class Posts:
    """The eligible posts of a root: the blocks, and per block a packed mask of the eligible rows, one bit per row."""

    engine: Engine
    schema: pa.Schema
    blocks: list[Block]
    masks: list[npt.NDArray[np.uint8]]
    dropped: Counter[str]

    def over(self, function: Callable[[Block, pa.Table], T], columns: Sequence[str], title: str) -> list[T]:
        """Applies `function` to each block's eligible posts. Returns the results in order."""
        masks = self.masks

        def block(part: Block, rows: pa.Table) -> T:
            kept = np.unpackbits(masks[part.number], count=part.rows).view(bool)
            return function(part, rows if kept.all() else rows.filter(pa.array(kept)))

        # Without any column the number of rows would be unknown.
        wanted = list(dict.fromkeys(columns)) or ["deleted"]
        return self.engine.map(block, self.blocks, wanted, title)


def eligible_posts(engine: Engine, storage: Storage, options: LabelOptions) -> Posts:
    """Finds the posts that take part, in a pass over images/ (if the rule needs pictures) and one over posts/.

    Raises InputError if no post takes part.
    """
    rule = options.eligible
    schema = tables.open_dataset(storage, "posts").schema
    verdicts: Verdicts | None = None
    if rule != "post":
        images = plan_blocks(storage, "images")

        def over_images(function: Callable[[pa.Table], Any]) -> list[Any]:
            return engine.map(lambda _, rows: function(rows), images, image_columns(rule), "Reading images")

        verdicts = image_verdicts(over_images, rule)
    blocks = plan_blocks(storage, "posts")

    def codes(_: Block, rows: pa.Table) -> tuple[npt.NDArray[np.uint8], Counter[str]]:
        found = post_codes(rows, verdicts)
        return np.packbits(found == 0), count(found)

    parts = engine.map(codes, blocks, post_columns(verdicts), "Reading posts")
    dropped = sum((part[1] for part in parts), Counter[str]())
    n = sum(block.rows for block in blocks)
    if dropped.total() == n:
        raise InputError(nothing_eligible(rule, n, dropped))
    return Posts(engine, schema, blocks, [part[0] for part in parts], dropped)


def response_columns(design: Design | None, schema: pa.Schema) -> list[str]:
    """The columns of posts/ from which y and the terms are computed."""
    if design is None:
        return []
    return columns_of_all(design.formula.variables, schema) + ([design.weights] if design.weights else [])


@dataclass(frozen=True)
class Scoring:
    """Computes y, fitted and score of the eligible posts of any block; `params` is None if there is no regression."""

    design: Design | None
    params: Floats | None

    def score(self, block: Block, posts: pa.Table) -> tuple[Scored, Counter[str]]:
        """The usable posts of a block, and how many are not usable, by reason."""
        if self.design is None:
            return Scored(posts, block=block.number), Counter()
        kept, ys, means, dropped = [], [], [], Counter[str]()
        for part in self.design.slices(posts):
            found = self.design.matrices(part)
            kept.append(found.kept)
            ys.append(found.y)
            if self.params is not None:
                means.append(predict(found.X, self.params))
            dropped += found.dropped
        usable, y = np.concatenate(kept), np.concatenate(ys)
        rows = posts if usable.all() else posts.filter(pa.array(usable))
        if self.params is None:
            return Scored(rows, y, block=block.number), dropped
        fitted = np.concatenate(means)
        return Scored(rows, y, fitted, y - fitted, block.number), dropped


@dataclass(frozen=True)
class Drawn:
    """What the split needs of one block's labelled posts, in order; `n` is the number of the block's usable posts."""

    n: int
    keys: Words
    strata: pa.DictionaryArray
    users: Words | None
    names: Words | None
    times: npt.NDArray[np.int64] | None
    given: npt.NDArray[np.int8] | None
    no_time: int


def draw_columns(options: LabelOptions, schema: pa.Schema) -> list[str]:
    """The columns of posts/ that `draw` reads besides those of y and of the scheme."""
    names = ["post_id"] + (["user_id"] if not pa.types.is_null(schema.field("user_id").type) else [])
    if options.split == "time":
        return [*names, "created_at"]
    return names if options.split in ("random", "user") else [*names, options.split]


def draw(scored: Scored, label: pa.Array, options: LabelOptions, seed: int) -> Drawn:
    """The labelled posts of a block as numbers, for the split."""
    classes = strata(label)
    known = pc.is_valid(classes)
    posts = scored.posts.filter(known)
    encoded = classes.filter(known).dictionary_encode()
    times, given, no_time = None, None, 0
    if options.split == "time":
        no_time = posts["created_at"].null_count
        times = np.asarray(pc.fill_null(posts["created_at"].cast(pa.int64()), 0))
    elif options.split not in ("random", "user"):
        given = sides_of(options.split, posts[options.split])
    return Drawn(
        n=len(label),
        # One hash, with the seed, decides the side. The other one finds duplicates.
        keys=name_hashes(posts["post_id"], seed + 1),
        names=name_hashes(posts["post_id"]),
        strata=encoded,
        users=name_hashes(posts["user_id"], 1) if "user_id" in posts.column_names else None,
        times=times,
        given=given,
        no_time=no_time,
    )


def together(parts: Sequence[Drawn], groups: tuple[Words, Words] | None) -> Labelled:
    """Joins the labelled posts of all blocks; `groups` is the result of `picture_groups`."""
    names = sorted({name for part in parts for name in part.strata.dictionary.to_pylist()})
    number = {name: i for i, name in enumerate(names)}
    classes = []
    for part in parts:
        codes = np.array([number[name] for name in part.strata.dictionary.to_pylist()], np.int64)
        classes.append(codes[part.strata.indices.to_numpy()])
    keys = np.concatenate([part.keys for part in parts])
    pictures = None
    if groups is not None and len(groups[0]):
        own = np.concatenate([part.names for part in parts if part.names is not None])
        place, found = look_up(groups[0], own)
        pictures = np.where(found, groups[1][place].astype(np.int64), -1)

    def joined(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if any(item is None for item in found) else np.concatenate(found)

    return Labelled(
        keys=keys,
        classes=np.concatenate(classes),
        users=joined("users"),
        pictures=pictures,
        times=joined("times"),
        given=joined("given"),
    )


def picture_groups(engine: Engine, storage: Storage) -> tuple[Words, Words]:
    """Posts whose picture another post has too: sorted hashes of their post_ids, and the number of each one's group.

    Groups have equal and nearly equal pictures if images/ lists them (`images/_duplicates/`), else equal SHA-256 sums.
    """
    record = tables.get_record(storage, "images")
    if any(file.path.startswith("_duplicates/") for file in record.files):
        listed = tables.read_table(storage, "images", ["post_id", "group"], folder="_duplicates")
        keys, found = name_hashes(listed["post_id"]), name_hashes(listed["group"], 1)
    else:

        def block(_: Block, rows: pa.Table) -> tuple[Words, Words]:
            rows = rows.filter(pc.is_valid(rows["sha256"]))
            return name_hashes(rows["post_id"]), name_hashes(rows["sha256"], 1)

        parts = engine.map(block, plan_blocks(storage, "images"), _PICTURES, "Comparing pictures")
        keys, found = (np.concatenate([np.empty(0, np.uint64), *(part[i] for part in parts)]) for i in (0, 1))
        order = np.argsort(found, kind="stable")
        same = found[order][1:] == found[order][:-1]
        several = order[np.append(same, False) | np.insert(same, 0, False)] if len(order) else order
        keys, found = keys[several], found[several]
    order = np.argsort(keys)
    return keys[order], np.unique(found, return_inverse=True)[1].astype(np.uint64)[order]


@dataclass
class Written:
    """Counts of the last pass: posts by class and side, lowest and highest value by class, dropped posts by reason.

    `ties` is as in `Ranked.ties`. `tied` is the number of posts that share their value with a post of another class.
    """

    counts: Counter[tuple[str, str]]
    ranges: dict[str, list[float]]
    dropped: Counter[str]
    n: int
    ties: Counter[tuple[int, bool]] = field(default_factory=Counter)
    tied: int = 0


def labels_of(scored: Scored, labeller: Labeller, sides: npt.NDArray[np.int8]) -> tuple[pa.Array, pa.Array]:
    """The labels and sides of a block's usable posts. Raises StageError if their number is not that of `sides`."""
    label = labeller(scored)
    known = np.asarray(pc.is_valid(strata(label)))
    if int(known.sum()) != len(sides):
        raise StageError(
            f"labels: block {scored.block} has {known.sum():,} labels, but {len(sides):,} a pass before: machines that "
            "compute differently cannot label together; use --label.on_ray false"
        )
    codes = np.full(len(label), -1, np.int8)
    codes[known] = sides
    return label, pa.array(SIDES).take(pa.array(codes, mask=codes < 0))
