"""The passes of `label` over the posts: which posts take part, their y, score and label, and the split's input."""

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
from raypipe.config.learning_options import LabelOptions
from raypipe.errors import InputError, StageError
from raypipe.label.blocks import Block, divide_into_blocks
from raypipe.label.eligible import (
    ImageEligibility,
    count_reasons,
    image_columns,
    image_eligibility,
    no_eligible_message,
    post_codes,
    post_columns,
)
from raypipe.label.engines import Engine
from raypipe.label.formula.derived import all_source_columns
from raypipe.label.formula.design import Design
from raypipe.label.formula.formula import Floats
from raypipe.label.ranking.string_hashes import UInt64s, find_positions, hash_strings
from raypipe.label.regression.fitting import predict
from raypipe.label.schemes import Labeller, ScoredPosts
from raypipe.label.split import SIDES, LabelledPosts, sides_from_column, strata
from raypipe.storage import Storage

T = TypeVar("T")

_PICTURES = ["post_id", "sha256"]


@dataclass(frozen=True)
class EligiblePosts:
    """The eligible posts of a root: the blocks, and per block a packed mask of the eligible rows, one bit per row."""

    engine: Engine
    schema: pa.Schema
    blocks: list[Block]
    masks: list[npt.NDArray[np.uint8]]
    dropped: Counter[str]

    def map_blocks(self, function: Callable[[Block, pa.Table], T], columns: Sequence[str], title: str) -> list[T]:
        """Applies `function` to each block's eligible posts. Returns the results in order."""
        masks = self.masks

        def block(part: Block, rows: pa.Table) -> T:
            kept = np.unpackbits(masks[part.number], count=part.rows).view(bool)
            return function(part, rows if kept.all() else rows.filter(pa.array(kept)))

        # Without any column the number of rows would be unknown.
        wanted = list(dict.fromkeys(columns)) or ["deleted"]
        return self.engine.map(block, self.blocks, wanted, title)


def eligible_posts(engine: Engine, storage: Storage, options: LabelOptions) -> EligiblePosts:
    """Finds the posts that take part, in a pass over images/ (if the rule needs pictures) and one over posts/.

    Raises InputError if no post takes part.
    """
    rule = options.eligible
    schema = tables.open_dataset(storage, "posts").schema
    eligibility: ImageEligibility | None = None
    if rule != "post":
        images = divide_into_blocks(storage, "images")

        def map_images(function: Callable[[pa.Table], Any]) -> list[Any]:
            return engine.map(lambda _, rows: function(rows), images, image_columns(rule), "Reading images")

        eligibility = image_eligibility(map_images, rule)
    blocks = divide_into_blocks(storage, "posts")

    def codes(_: Block, rows: pa.Table) -> tuple[npt.NDArray[np.uint8], Counter[str]]:
        found = post_codes(rows, eligibility)
        return np.packbits(found == 0), count_reasons(found)

    parts = engine.map(codes, blocks, post_columns(eligibility), "Reading posts")
    dropped = sum((part[1] for part in parts), Counter[str]())
    n = sum(block.rows for block in blocks)
    if dropped.total() == n:
        raise InputError(no_eligible_message(rule, n, dropped))
    return EligiblePosts(engine, schema, blocks, [part[0] for part in parts], dropped)


def formula_columns(design: Design | None, schema: pa.Schema) -> list[str]:
    """The columns of posts/ from which y and the terms are computed."""
    if design is None:
        return []
    return all_source_columns(design.formula.variables, schema) + ([design.weights] if design.weights else [])


@dataclass(frozen=True)
class PostScorer:
    """Computes y, fitted and score of the eligible posts of any block; `params` is None if there is no regression."""

    design: Design | None
    params: Floats | None

    def score(self, block: Block, posts: pa.Table) -> tuple[ScoredPosts, Counter[str]]:
        """The usable posts of a block, and how many are not usable, by reason."""
        if self.design is None:
            return ScoredPosts(posts, block_number=block.number), Counter()
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
            return ScoredPosts(rows, y, block_number=block.number), dropped
        fitted = np.concatenate(means)
        return ScoredPosts(rows, y, fitted, y - fitted, block.number), dropped


@dataclass(frozen=True)
class SplitInput:
    """One block's labelled posts, in order, as the split needs them; `n` is the number of the block's usable posts."""

    n: int
    keys: UInt64s
    strata: pa.DictionaryArray
    users: UInt64s | None
    post_hashes: UInt64s | None
    times: npt.NDArray[np.int64] | None
    given: npt.NDArray[np.int8] | None
    n_without_time: int


def draw_columns(options: LabelOptions, schema: pa.Schema) -> list[str]:
    """The columns of posts/ that `make_split_input` reads besides those of y and of the scheme."""
    names = ["post_id"] + (["user_id"] if not pa.types.is_null(schema.field("user_id").type) else [])
    if options.split == "time":
        return [*names, "created_at"]
    return names if options.split in ("random", "user") else [*names, options.split]


def make_split_input(scored: ScoredPosts, label: pa.Array, options: LabelOptions, seed: int) -> SplitInput:
    """The labelled posts of a block as numbers, for the split."""
    classes = strata(label)
    known = pc.is_valid(classes)
    posts = scored.posts.filter(known)
    encoded = classes.filter(known).dictionary_encode()
    times, given, n_without_time = None, None, 0
    if options.split == "time":
        n_without_time = posts["created_at"].null_count
        times = np.asarray(pc.fill_null(posts["created_at"].cast(pa.int64()), 0))
    elif options.split not in ("random", "user"):
        given = sides_from_column(options.split, posts[options.split])
    return SplitInput(
        n=len(label),
        # One hash, with the seed, decides the split. The other one finds duplicates.
        keys=hash_strings(posts["post_id"], seed + 1),
        post_hashes=hash_strings(posts["post_id"]),
        strata=encoded,
        users=hash_strings(posts["user_id"], 1) if "user_id" in posts.column_names else None,
        times=times,
        given=given,
        n_without_time=n_without_time,
    )


def join_split_inputs(parts: Sequence[SplitInput], groups: tuple[UInt64s, UInt64s] | None) -> LabelledPosts:
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
        own = np.concatenate([part.post_hashes for part in parts if part.post_hashes is not None])
        place, found = find_positions(groups[0], own)
        pictures = np.where(found, groups[1][place].astype(np.int64), -1)

    def joined(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if any(item is None for item in found) else np.concatenate(found)

    return LabelledPosts(
        keys=keys,
        classes=np.concatenate(classes),
        users=joined("users"),
        pictures=pictures,
        times=joined("times"),
        given=joined("given"),
    )


def picture_groups(engine: Engine, storage: Storage) -> tuple[UInt64s, UInt64s]:
    """Posts that share a picture with another post: sorted hashes of their post_ids, and the number of their group.

    Groups are those of `images/_duplicates/` (equal and nearly equal pictures) if it exists, else equal SHA-256 sums.
    """
    record = tables.get_record(storage, "images")
    if any(file.path.startswith("_duplicates/") for file in record.files):
        listed = tables.read_table(storage, "images", ["post_id", "group"], folder="_duplicates")
        keys, found = hash_strings(listed["post_id"]), hash_strings(listed["group"], 1)
    else:

        def block(_: Block, rows: pa.Table) -> tuple[UInt64s, UInt64s]:
            rows = rows.filter(pc.is_valid(rows["sha256"]))
            return hash_strings(rows["post_id"]), hash_strings(rows["sha256"], 1)

        parts = engine.map(block, divide_into_blocks(storage, "images"), _PICTURES, "Comparing pictures")
        keys, found = (np.concatenate([np.empty(0, np.uint64), *(part[i] for part in parts)]) for i in (0, 1))
        order = np.argsort(found, kind="stable")
        same = found[order][1:] == found[order][:-1]
        several = order[np.append(same, False) | np.insert(same, 0, False)] if len(order) else order
        keys, found = keys[several], found[several]
    order = np.argsort(keys)
    return keys[order], np.unique(found, return_inverse=True)[1].astype(np.uint64)[order]


@dataclass
class LabelTotals:
    """Counts of the last pass: posts by class and split, lowest and highest value by class, dropped posts by reason.

    `ties` is as in `RankLabeller.ties`. `n_tied` counts posts that share their value with a post of another class.
    """

    counts: Counter[tuple[str, str]]
    ranges: dict[str, list[float]]
    dropped: Counter[str]
    n: int
    ties: Counter[tuple[int, bool]] = field(default_factory=Counter)
    n_tied: int = 0


def labels_and_sides(scored: ScoredPosts, labeller: Labeller, sides: npt.NDArray[np.int8]) -> tuple[pa.Array, pa.Array]:
    """The labels and splits of a block's usable posts. Raises StageError if their number is not that of `sides`."""
    label = labeller(scored)
    known = np.asarray(pc.is_valid(strata(label)))
    if int(known.sum()) != len(sides):
        raise StageError(
            f"labels: block {scored.block_number} has {known.sum():,} labels, but {len(sides):,} in the pass before: "
            "the machines compute different results; use --label.on_ray false"
        )
    codes = np.full(len(label), -1, np.int8)
    codes[known] = sides
    return label, pa.array(SIDES).take(pa.array(codes, mask=codes < 0))
