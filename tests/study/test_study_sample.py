"""Samples use the right splits, and depend on the participant."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raypipe.errors import InputError
from raypipe.study.study_sample import EXAMPLES_PER_CLASS, draw_sample
from raypipe.tables.schemas import labels_schema
from tests.report.root import Built, commit


def test_examples_come_from_train_and_questions_from_val(built: Built) -> None:
    sample = draw_sample(built.storage, seed=0, participant="ann", pictures=20)
    split = built.labels.set_index("post_id")["split"]
    assert sample.classes == ("top", "bottom")
    assert {split[picture.post_id] for picture in sample.questions} == {"val"}
    assert {split[picture.post_id] for picture in sample.examples} == {"train"}
    assert len({picture.post_id for picture in sample.questions}) == 20
    for name in sample.classes:
        assert sum(picture.label == name for picture in sample.examples) == EXAMPLES_PER_CLASS


def test_sample_depends_only_on_seed_and_participant(built: Built) -> None:
    def ids(seed: int, name: str) -> list[str]:
        sample = draw_sample(built.storage, seed=seed, participant=name, pictures=10)
        return [picture.post_id for picture in sample.questions]

    assert ids(0, "ann") == ids(0, "ann")
    assert ids(0, "ann") != ids(0, "bob")
    assert ids(0, "ann") != ids(1, "ann")


@pytest.mark.parametrize(
    ("kind", "labels", "words"),
    [
        (pa.float64(), [0.5, 0.7, 0.9], "labels are not classes"),
        (pa.string(), ["a", "b", "c"], "exactly two classes, found 3"),
        (pa.string(), ["a", "a", None], "exactly two classes, found 1"),
    ],
)
def test_labels_must_be_two_classes(built: Built, kind: pa.DataType, labels: list[object], words: str) -> None:
    rows = [{"post_id": f"p{i:05d}", "label": label, "split": "val"} for i, label in enumerate(labels)]
    commit(built.storage, "labels", pa.Table.from_pylist(rows, schema=labels_schema(kind)))
    with pytest.raises(InputError, match=words):
        draw_sample(built.storage, seed=0, participant="ann", pictures=1)


def test_any_two_classes_can_be_studied(built: Built) -> None:
    ok = [post_id for post_id, state in zip(built.posts["post_id"], built.status, strict=True) if state == "ok"]
    rows = [
        {"post_id": post_id, "label": ("bees", "ants")[i % 2], "split": ("train", "val")[i // 20]}
        for i, post_id in enumerate(ok[:40])
    ]
    commit(built.storage, "labels", pa.Table.from_pylist(rows, schema=labels_schema(pa.string())))
    sample = draw_sample(built.storage, seed=0, participant="ann", pictures=20)
    assert sample.classes == ("ants", "bees")
    assert len(sample.examples) == 20
