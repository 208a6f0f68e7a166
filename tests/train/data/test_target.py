import numpy as np
import pyarrow as pa
import pytest

from raypipe.train.data.target import Target

BINARY, CLASSES = Target("binary", ("no", "yes")), Target("classes", ("a", "b", "c"))
TAGS, SCORE = Target("tags", ("sea", "sun")), Target("score", ())


@pytest.mark.parametrize(
    ("target", "labels", "codes", "dtype", "texts"),
    [
        (BINARY, pa.array(["yes", "no"]), [1, 0], np.float32, ["yes", "no"]),
        (CLASSES, pa.array(["c", "a", "b"]), [2, 0, 1], np.int64, ["c", "a", "b"]),
        (
            TAGS,
            pa.array([["sun"], [], ["sun", "sea"]]),
            [[0, 1], [0, 0], [1, 1]],
            np.float32,
            ["", "sun", "", "", "sea", "sun"],
        ),
        (SCORE, pa.array([0.1, -2.0]), [0.1, -2.0], np.float64, ["0.1", "-2.0"]),
    ],
)
def test_labels_become_numbers_and_texts_again(target, labels, codes, dtype, texts) -> None:
    found = target.encode(pa.chunked_array([labels.slice(0, 1), labels.slice(1)]))
    assert found.dtype == dtype
    assert found.tolist() == np.asarray(codes, dtype).tolist()
    assert target.texts(found) == texts
    empty = target.encode(pa.chunked_array([], labels.type))
    assert (empty.dtype, len(empty), empty.shape[1:]) == (dtype, 0, found.shape[1:])


def test_outputs_are_one_a_class_or_tag_but_for_two_classes_and_a_score() -> None:
    assert [target.n_outputs for target in (BINARY, CLASSES, TAGS, Target("tags", ("sea",)), SCORE)] == [1, 3, 2, 1, 1]


@pytest.mark.parametrize("target", [BINARY, CLASSES, TAGS, SCORE])
def test_a_checkpoint_keeps_it(target: Target) -> None:
    assert Target.from_metadata(target.as_metadata()) == target


def test_checkpoints_that_name_no_head_are_of_two_classes() -> None:
    assert Target.from_metadata({"classes": '["bottom", "top"]'}) == Target("binary", ("bottom", "top"))
    assert Target.from_metadata({"preprocessing": "…"}) is None


@pytest.mark.parametrize(
    ("kind", "names"), [("binary", ("a",)), ("classes", ("a", "b")), ("tags", ()), ("score", ("a",)), ("else", ())]
)
def test_names_that_do_not_fit_are_refused(kind, names) -> None:
    with pytest.raises(ValueError, match=f"{len(names)} names do not make a head of kind '{kind}'"):
        Target(kind, names)
