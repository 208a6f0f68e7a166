"""Faces are counted again if the model file's contents change, even with equal options."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import StageError
from raypipe.ingest.faces import detector_inputs
from raypipe.ingest.redo import plan_redo
from raypipe.tables.schemas import IMAGES


def configure(root: Path, model: Path, **options: dict[str, object]) -> Config:
    faces = {"detector": "cnn", "model": str(model), **options.pop("faces", {})}
    return load_config(root=str(root), faces=faces, **options)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file with the name of a model. No detector is made of it."""
    path = tmp_path / "detector.dat"
    path.write_bytes(b"one model")
    return path


@pytest.fixture
def inputs(tmp_path: Path, model: Path) -> dict[str, str]:
    """The inputs of a complete `images/` with two posts, one of which timed out."""
    config = configure(tmp_path / "root", model)
    found = {"posts": "0123abcd"} | detector_inputs(config.faces)
    options = config.result_options("ingest", "faces")
    with tables.begin(config.open_storage(), "images", command="ingest", config=options, inputs=found) as run:
        rows = [
            {"post_id": name, "url": "http://host/x.jpg", "status": name, "attempts": 1} for name in ("ok", "timeout")
        ]
        run.writer.write("00000", pa.Table.from_pylist(rows, schema=IMAGES))
        run.commit(rows_in=2)
    return found


def test_model_file_input_depends_on_contents(tmp_path: Path, model: Path) -> None:
    faces = configure(tmp_path, model).faces
    before = detector_inputs(faces)
    model.touch()
    assert detector_inputs(faces) == before
    model.write_bytes(b"two model")
    assert detector_inputs(faces) != before
    assert set(before) == {"faces.model"}
    assert detector_inputs(load_config().faces) == {}


def test_faces_are_recounted_if_model_file_changes(tmp_path: Path, model: Path, inputs: dict[str, str]) -> None:
    config = configure(tmp_path / "root", model, faces={"only": True})
    storage = config.open_storage()
    same = plan_redo(config, storage, inputs)
    assert same is not None
    assert same.revision is None
    model.write_bytes(b"two model")
    other = plan_redo(config, storage, {"posts": "0123abcd"} | detector_inputs(config.faces))
    assert other is not None
    assert other.revision is not None
    assert other.revision["faces.only"] is True


def test_rows_of_two_model_files_are_never_mixed(tmp_path: Path, model: Path, inputs: dict[str, str]) -> None:
    config = configure(tmp_path / "root", model, ingest={"retry": ["timeout"]})
    storage = config.open_storage()
    same = plan_redo(config, storage, inputs)
    assert same is not None
    assert same.ids_to_fetch.to_pylist() == ["timeout"]
    model.write_bytes(b"two model")
    with pytest.raises(StageError, match=r"were examined with other options: contents of faces.model was '.*', is '"):
        plan_redo(config, storage, {"posts": "0123abcd"} | detector_inputs(config.faces))
