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
def test_labels_round_trip_through_numbers(target, labels, codes, dtype, texts) -> None:
    found = target.encode(pa.chunked_array([labels.slice(0, 1), labels.slice(1)]))
    assert found.dtype == dtype
    assert found.tolist() == np.asarray(codes, dtype).tolist()
    assert target.label_texts(found) == texts
    empty = target.encode(pa.chunked_array([], labels.type))
    assert (empty.dtype, len(empty), empty.shape[1:]) == (dtype, 0, found.shape[1:])


def test_number_of_outputs_per_target() -> None:
    assert [target.n_outputs for target in (BINARY, CLASSES, TAGS, Target("tags", ("sea",)), SCORE)] == [1, 3, 2, 1, 1]


@pytest.mark.parametrize("target", [BINARY, CLASSES, TAGS, SCORE])
def test_target_metadata_round_trip(target: Target) -> None:
    assert Target.from_metadata(target.as_metadata()) == target


def test_checkpoint_without_head_has_two_classes() -> None:
    assert Target.from_metadata({"classes": '["bottom", "top"]'}) == Target("binary", ("bottom", "top"))
    assert Target.from_metadata({"preprocessing": "…"}) is None


@pytest.mark.parametrize(
    ("kind", "names"), [("binary", ("a",)), ("classes", ("a", "b")), ("tags", ()), ("score", ("a",)), ("else", ())]
)
def test_unsuitable_class_names_are_refused(kind, names) -> None:
    with pytest.raises(ValueError, match=f"{len(names)} names do not fit a target of kind '{kind}'"):
        Target(kind, names)
