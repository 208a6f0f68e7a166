"""The target found in the labels, and decoded pictures with labels of each kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import psutil
import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.tables import lock as claims
from raypipe.train.data.target import Target
from raypipe.train.decode import find_target, prepare_pictures
from tests.training_root import SPLITS, jpeg, relabel, write_images, write_labels


@pytest.mark.parametrize(
    ("labels", "target"),
    [
        (pa.array(["top", None, "bottom", "top"]), Target("binary", ("bottom", "top"))),
        (pa.array(["q3", "q1", "q2", None]), Target("classes", ("q1", "q2", "q3"))),
        (pa.array([0.5, None]), Target("score", ())),
        # Tags have the order and the case of the options, in which the first is written "#Sun".
        (pa.array([["sea"], [], None], pa.list_(pa.string())), Target("tags", ("Sun", "sea"))),
    ],
)
def test_target_follows_labels(training: Config, labels: pa.Array, target: Target) -> None:
    relabel(training, "tags")
    storage = training.open_storage()
    assert find_target(storage, tables.get_record(storage, "labels"), pa.chunked_array([labels])) == target


def test_single_class_raises_error(training: Config) -> None:
    storage = training.open_storage()
    record = tables.get_record(storage, "labels")
    with pytest.raises(InputError, match=r"training needs two classes or more, found 1 \('top'\); see --label.scheme"):
        find_target(storage, record, pa.chunked_array([["top", None, "top"]]))


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("head", "label"),
    [
        ("classes", lambda i: 2 if i % 2 == 0 else i // 2 % 2 * 1),
        ("tags", lambda i: [i % 2, int(i % 3 == 0)]),
        ("score", lambda i: 3.0 + 2.0 * (i % 2) + 0.01 * i),
    ],
)
def test_pictures_have_labels_of_each_kind(training: Config, head: str, label: Callable[[int], object]) -> None:
    relabel(training, head)
    pictures = prepare_pictures(training)
    assert pictures.target.kind == head
    for split in ("train", "val", "test"):
        found = pictures.load(split)
        numbers = [i for i, name in enumerate(SPLITS) if name == split]
        assert found.post_ids.tolist() == [f"p{i:03d}" for i in numbers]
        # Classes have alphabetical order: bright, brilliant, dark.
        assert found.labels.tolist() == np.array([label(i) for i in numbers]).tolist()
        bright = found.images[:].float().mean(dim=(1, 2, 3)).numpy() > 128
        assert bright.tolist() == [i % 2 == 1 for i in numbers]
    assert len(pictures.load("none")) == 0


@pytest.mark.usefixtures("ray_session")
def test_undecodable_pictures_are_counted_and_left_out(training: Config) -> None:
    rng = np.random.default_rng(0)
    images = {f"p{i:03d}": jpeg(rng, 190 if i % 2 else 70) for i in range(len(SPLITS))}
    storage = training.open_storage()
    for name in storage.files("images"):
        storage.delete(f"images/{name}")
    write_images(training, {**images, "p003": images["p003"][:200], "p026": b"no picture"})
    pictures = prepare_pictures(training)
    record = tables.get_record(storage, pictures.table)
    assert record.facts["undecodable"] == 2
    assert "p003" not in pictures.load("train").post_ids
    assert [len(pictures.load(split)) for split in ("train", "val", "test")] == [23, 7, 8]


@pytest.mark.usefixtures("ray_session")
def test_old_decoded_pictures_are_deleted_unless_in_use(training: Config) -> None:
    storage = training.open_storage()
    stale = {"labels": "older", "images": tables.get_record(storage, "images").run_id}
    layout = {"image_size": 32, "layout": 0}
    for name in ("whole", "cut-off"):
        with tables.begin(storage, f"_tensors/{name}", command="train", config=layout, inputs=stale) as run:
            run.writer.write_file("pixels.npy", b"many bytes")
            if name == "whole":
                run.commit(rows_in=0)
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        claim = claims.read(storage, "_tensors/cut-off").claim
        assert claim is not None
        started = psutil.Process(sleeper.pid).create_time()
        held = claim.model_copy(update={"pid": sleeper.pid, "process_started": started})
        storage.write("_tensors/busy/_claim.json", held.model_dump_json().encode())
        prepare_pictures(training)
    finally:
        sleeper.communicate(b"\n")
    left = {name.split("/")[0] for name in storage.files("_tensors")}
    assert left - {"busy"} == {name for name in left if name.startswith("32px-")}
    assert "busy" in left


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    ("label", "split", "message"),
    [
        (lambda i: ("bottom", "top")[i % 2], lambda _: "train", "no picture in the split val; set --label.val above 0"),
        (lambda i: ("bottom", "top")[i % 2], lambda _: "val", "no picture in the split train; set --label.val above 0"),
        (
            lambda i: ("bottom", "top")[SPLITS[i] == "val"],
            lambda i: SPLITS[i],
            r"all training pictures are 'bottom'; labels \('bottom', 'top'\) are needed",
        ),
    ],
)
def test_unusable_split_raises_one_line_error(
    training: Config, label: Callable[[int], str], split: Callable[[int], str], message: str
) -> None:
    write_labels(training, [{"post_id": f"p{i:03d}", "label": label(i), "split": split(i)} for i in range(40)])
    with pytest.raises(InputError, match=rf"labels: {message}"):
        prepare_pictures(training)
