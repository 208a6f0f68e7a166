"""Export of a trained model: the written files, the code of the card, and refused options."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import raypipe
from raypipe import tables
from raypipe.cli import main
from raypipe.config import Config
from raypipe.errors import ConfigError, InputError, StageError
from raypipe.export.model import graph
from raypipe.export.model.graph import GraphError
from raypipe.export.model.training_origin import trial_options
from raypipe.predict.model import TrainedModel, read_checkpoint
from raypipe.storage import Storage
from raypipe.train.data.images import decode_and_resize
from raypipe.train.data.preprocessing import CAFFE_RGB
from tests.export.model.conftest import exporting, write_root
from tests.train.here import train_here

FILES = {"README.md", "config.json", "model.onnx", "model.pt2", "model.safetensors"}


def large_jpeg() -> bytes:
    """A rotated picture, so large that it is decoded at a quarter of its size."""
    rng, out = np.random.default_rng(8), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def model_of(config: Config) -> TrainedModel:
    return TrainedModel.from_bytes(*reversed(read_checkpoint(config.open_storage(), "train/A")))


def test_export_writes_all_files_and_record(trained: Config, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == FILES | {"_run.json"}
    record = tables.get_record(trained.open_storage(), "export/model")
    # Every fourth pair of the 48 labelled posts. One of them has no valid picture.
    assert record.rows_in == record.rows_out + record.dropped["undecodable"]
    assert {item["file"] for item in record.facts["checked"]} == {"model.safetensors", "model.pt2", "model.onnx"}
    for item in record.facts["checked"]:
        assert item["pictures"] == record.rows_out
        assert item["largest_difference"] < 1e-5
        assert item["changed_decisions"] == 0
    assert set(record.inputs) == {"model", "labels", "images"}


def test_config_json_describes_model_completely(trained: Config, exported: Path) -> None:
    about = json.loads((exported / "config.json").read_text())
    wanted = {"model": "vgg16", "configuration": "A", "form": "paper", "image_size": 32, "head": "binary"}
    assert wanted.items() <= about.items()
    assert about["labels"] == ["bottom", "top"]
    assert about["output"]["meaning"] == "the probability of 'top'; the other class is 'bottom'"
    assert about["weights_from"] == "random"
    best = json.loads((Path(trained.root) / "train/A/_trials/A-0.json").read_text())["rows"]
    assert about["training"]["val_accuracy"] == max(row["val_accuracy"] for row in best)
    with safe_open(exported / "model.safetensors", framework="pt") as file:
        assert "options" not in file.metadata()
        assert file.metadata()["form"] == "paper"


def test_card_code_blocks_give_same_predictions(
    trained: Config, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    data = large_jpeg()
    Path("picture.jpg").write_bytes(data)
    expected = model_of(trained).predictions(decode_and_resize(data, 32)[None])
    first, *blocks = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        names: dict[str, Any] = {}
        exec(first, names)
        exec(block, names)
        np.testing.assert_allclose(np.asarray(names["probability"]), expected, atol=1e-5)


def test_card_shows_counts_and_accuracy(trained: Config, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    labels = tables.get_record(trained.open_storage(), "labels")
    for side, count in labels.facts["splits"].items():
        assert re.search(rf"\| label .*{side}", card)
        assert re.search(rf"\| all .*\b{count}\b", card)
    trial = json.loads((Path(trained.root) / "train/A/_trials/A-0.json").read_text())
    assert f"{100 * trial['test_accuracy']:.1f} %" in card
    for text in ("log10(1 + likes)", "The lowest 40 % are `bottom`", "2026-01-01 to 2026-03-01", "exactly one face",
                 "random", "onnxruntime 1.", "no decision changed", "column `part`"):  # fmt: skip
        assert text in card, text
    # The card contains nothing about the machine.
    assert trained.root not in card
    assert "{" not in re.sub(r"```.*?```", "", card, flags=re.DOTALL)


def test_second_export_does_nothing_or_refuses_changed_options(trained: Config, exported: Path) -> None:
    record = tables.get_record(trained.open_storage(), "export/model")
    assert raypipe.export(exporting(trained)) == record
    assert exported.exists()
    with pytest.raises(StageError, match=r"export\.check was 256, is 5; use --overwrite"):
        raypipe.export(exporting(trained, check=5))
    with pytest.raises(StageError, match=r"export\.onnx was True, is False"):
        raypipe.export(exporting(trained, onnx=False))


def test_command_line_exports_a_checkpoint_file(
    trained: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "find_spec", lambda _: None)
    checkpoint = f"{trained.root}/train/A/checkpoints/A-0/best.safetensors"
    words = ["export", "--root", trained.root, "--format", "model", "--export.name", "file", "--export.check", "4"]
    assert main([*words, "--export.model", checkpoint]) == 0
    said = capsys.readouterr().out
    assert "model.pt2 by torch 2." in said
    # One of the four pictures is invalid.
    assert "on 3 validation pictures: " in said
    assert "model.onnx is left out: it needs onnx, onnxscript, onnxruntime; pip install 'raypipe[export]'" in said
    card = (Path(trained.root) / "export/file/README.md").read_text()
    assert "There is no `model.onnx`" in card
    # A checkpoint file below the root belongs to a trial, and the card says so.
    assert "epoch" in card
    assert "trained elsewhere" not in card
    assert main([*words, "--export.onnx"]) == 2
    assert "export.onnx: needs onnx, onnxscript, onnxruntime; pip install" in capsys.readouterr().err


def test_card_of_foreign_model_says_trained_elsewhere(trained: Config, exported: Path, tmp_path: Path) -> None:
    shutil.copy(exported / "model.safetensors", tmp_path / "x.safetensors")
    raypipe.export(exporting(trained, model=str(tmp_path / "x.safetensors"), name="elsewhere", onnx=False, check=4))
    card = (Path(trained.root) / "export/elsewhere/README.md").read_text()
    assert card.count("It was trained elsewhere") == 2
    assert "Likability" not in card


def test_missing_model_raises_one_line_error(trained: Config, config: Config) -> None:
    with pytest.raises(ConfigError, match=r"export\.model: 'nowhere' is not allowed"):
        raypipe.export(exporting(trained, model="nowhere", name="x"))
    with pytest.raises(InputError, match=r"export\.model: a\.safetensors: there is no such file"):
        raypipe.export(exporting(trained, model="a.safetensors", name="x"))
    with pytest.raises(StageError, match="train/A: does not exist"):
        raypipe.export(exporting(config))
    assert not (Path(trained.root) / "export/x").exists()


def test_wrong_graph_file_is_not_kept(trained: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = graph.trace
    monkeypatch.setattr(graph, "trace", lambda model: trace(replace(model, preprocessing=CAFFE_RGB)))
    with pytest.raises(GraphError, match=r"model\.pt2: torch 2\..* differs from the model by "):
        raypipe.export(exporting(trained, name="wrong", onnx=False))
    assert not [p for p in (Path(trained.root) / "export").rglob("*") if "wrong" in str(p) and p.is_file()]


def test_interrupted_export_resumes(trained: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config = exporting(trained, name="resumed", onnx=False, check=4)
    write = Storage.write

    def interrupted(self: Storage, path: str, data: bytes | memoryview) -> None:
        if path.endswith("README.md"):
            raise KeyboardInterrupt
        written.append(path.rpartition("/")[2])
        write(self, path, data)

    written: list[str] = []
    monkeypatch.setattr(Storage, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        raypipe.export(config)
    assert {"model.safetensors", "model.pt2"} <= set(written)
    monkeypatch.setattr(Storage, "write", lambda self, path, data: (written.append(path), write(self, path, data)))
    written.clear()
    record = raypipe.export(config)
    assert {file.path for file in record.files} == FILES - {"model.onnx"}
    assert not [path for path in written if path.endswith(("safetensors", "pt2"))]


def test_exported_weights_are_unchanged(trained: Config, exported: Path) -> None:
    ours = TrainedModel.from_bytes((exported / "model.safetensors").read_bytes(), "model.safetensors")
    before = model_of(trained).network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in ours.network.state_dict().items())


def test_card_of_sweep_trial_shows_its_own_options(tmp_path: Path) -> None:
    config = write_root(tmp_path / "root")
    values = (("epochs", {"A": 2, "B": 9}), ("batch_size", 16), ("learning_rate", None))
    train_here(config, "sweep", 1, values)
    (name,) = (path.name for path in (tmp_path / "root/sweep/checkpoints").iterdir())
    raypipe.export(exporting(config, model=f"sweep/{name}", onnx=False, check=4))
    folder = tmp_path / "root/export/model"
    # If no learning rate is given, the form's is used.
    assert re.search(r"epoch \d of 2, batches of 16, learning rate 0\.001, seed 0", (folder / "README.md").read_text())
    told = json.loads((folder / "config.json").read_text())["training"]["options"]
    assert {"epochs": 2, "batch_size": 16, "learning_rate": 0.001, "flips": True}.items() <= told.items()
    assert "weights" not in told


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ({"options": '{"batch_size": 8, "epochs": 4, "learning_rate": null, "of_old": 1}'}, (8, 4, 1e-4)),
        ({"options": '{"batch_size": 8, "epochs": {"A": 4}, "learning_rate": {"A": 0.5}}'}, (8, 4, 0.5)),
        ({"options": '{"batch_size": "many"}'}, None),
        ({"options": "[]"}, None),
        ({}, None),
    ],
)
def test_options_are_read_from_checkpoint(kept: dict[str, str], expected: tuple[float, ...] | None) -> None:
    found = trial_options({"configuration": "A", **kept}, "modern")
    assert (tuple(found[name] for name in ("batch_size", "epochs", "learning_rate")) if found else None) == expected


@pytest.mark.parametrize(
    ("label", "texts"),
    [
        ({"scheme": "hashtags", "hashtags": ["sun", "sea"]},
         ["# Hashtag classifier: vgg16", "| `sun` | 50.0 % |", "ROC AUC", "float32 [n, k]", "what the author wrote"]),
        ({"scheme": "continuous"},
         ["# Likability score: vgg16", "Spearman", "validation R²", "`score`, float32 [n]", "the score is the label"]),
    ],
)  # fmt: skip
def test_cards_describe_other_label_kinds(label: dict[str, object], texts: list[str], tmp_path: Path) -> None:
    config = write_root(tmp_path / "root", **label)
    train_here(config, "train/A", 1)
    raypipe.export(exporting(config, onnx=False, check=4))
    card = (tmp_path / "root/export/model/README.md").read_text()
    for text in texts:
        assert text in card, text
    # There is no paper result to compare with.
    assert "[^paper]" not in card
    prose = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert not [word for word in ("None", "nan") if re.search(rf"\b{word}\b", prose)]
