"""The pictures that a person sees: labelled training pictures to learn from, then validation pictures to classify."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.errors import InputError
from raypipe.storage import Storage
from raypipe.tables.root_tables import RootTables

EXAMPLES_PER_CLASS = 24


@dataclass(frozen=True)
class StudyPicture:
    """One picture: the fetched bytes, its class, and the post's user. None if the user is not known."""

    post_id: str
    label: str
    user: str | None
    image: bytes


@dataclass(frozen=True)
class StudySample:
    """`classes` in the order of the buttons, `examples` of the training split, `questions` of the validation split."""

    classes: tuple[str, str]
    examples: list[StudyPicture]
    questions: list[StudyPicture]


def draw_sample(storage: Storage, *, seed: int, participant: str, pictures: int) -> StudySample:
    """A random sample that depends on `seed` and `participant`: the same ones always get the same sample.

    Raises InputError if labels are not two classes, or fewer than `pictures` labelled validation pictures are stored.
    """
    rows = tables.read_table(storage, "labels", ["post_id", "label", "split", "user_id"])
    classes = _two_classes(storage, rows)
    stored = tables.read_table(storage, "images", ["post_id"], where=pc.field("n_bytes").is_valid())["post_id"]
    rows = rows.filter(pc.is_in(rows["post_id"], stored.combine_chunks()))
    digest = hashlib.sha256(f"{seed}/{participant}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    order = rng.permutation(len(rows))
    labelled = rows.take(order).filter(pc.field("label").is_valid())
    held_out = labelled.filter(pc.field("split") == "val")
    training = labelled.filter(pc.field("split") == "train")
    example_rows = [_first(training.filter(pc.field("label") == name), EXAMPLES_PER_CLASS) for name in classes]
    question_rows = _first(held_out, pictures)
    found = RootTables.open(storage).pictures(
        [post_id for rows in (*example_rows, question_rows) for post_id, *_ in rows]
    )
    examples = [StudyPicture(*row, found[row[0]]) for rows in example_rows for row in rows if row[0] in found]
    questions = [StudyPicture(*row, found[row[0]]) for row in question_rows if row[0] in found]
    if len(questions) < pictures:
        raise InputError(
            f"study.pictures {pictures}: {storage.uri('images')} has only {len(questions)} labelled validation "
            "pictures; use fewer, or fetch and label more"
        )
    return StudySample(classes, examples, questions)


def _two_classes(storage: Storage, rows: pa.Table) -> tuple[str, str]:
    where = storage.uri("labels")
    if not pa.types.is_string(rows.schema.field("label").type):
        raise InputError(f"{where}: labels are not classes; a study needs two classes, as of scheme residual")
    found = sorted(pc.unique(rows["label"].drop_null()).to_pylist())
    if len(found) != 2:
        raise InputError(f"{where}: a study needs exactly two classes, found {len(found)}; see --label.scheme")
    return ("top", "bottom") if found == ["bottom", "top"] else (found[0], found[1])


def _first(rows: pa.Table, count: int) -> list[tuple[str, str, str | None]]:
    head = rows.slice(0, count)
    return list(zip(*(head[name].to_pylist() for name in ("post_id", "label", "user_id")), strict=True))
