"""Which checkpoint an option names, also in a root from another person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from raypipe import tables
from raypipe.errors import InputError
from raypipe.predict.model import TrainedModel, read_checkpoint
from raypipe.storage import Storage


def train(storage: Storage, table: str, winner: Any, trial: str = "A-0") -> None:
    """A complete training whose checkpoint holds the name of its table."""
    with tables.begin(storage, table, command="train", config={}, inputs={}) as run:
        run.writer.write_file(f"checkpoints/{trial}/best.safetensors", table.encode())
        run.commit(rows_in=0, rows_out=0, facts={"winner": winner})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "root"))


@pytest.mark.parametrize("name", ["A", "a.safetensors", "x.y"])
def test_every_training_is_found_by_name(storage: Storage, name: str) -> None:
    train(storage, f"train/{name}", "A-0")
    path = f"train/{name}/checkpoints/A-0/best.safetensors"
    assert read_checkpoint(storage, f"train/{name}") == (path, f"train/{name}".encode())
    assert read_checkpoint(storage, f"train/{name}/A-0") == (path, f"train/{name}".encode())


@pytest.mark.parametrize("winner", ["..", "../../../x", "/etc", "", None, 3, ["A-0"]])
def test_winner_in_record_must_be_a_trial(storage: Storage, tmp_path: Path, winner: Any) -> None:
    train(storage, "sweep", winner)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "best.safetensors").write_bytes(b"elsewhere")
    with pytest.raises(InputError, match=r"sweep/_run\.json: names .* as the winner, which is not a trial$"):
        read_checkpoint(storage, None)


def test_checkpoint_file_is_read_from_any_folder(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "m.safetensors").write_bytes(b"file")
    monkeypatch.chdir(tmp_path / "deep")
    assert read_checkpoint(storage, "../m.safetensors") == ("../m.safetensors", b"file")
    with pytest.raises(InputError, match="there is no such file"):
        read_checkpoint(storage, "train/m.safetensors")


METADATA = {
    "configuration": "A",
    "form": "paper",
    "image_size": "32",
    "classes": '["bottom", "top"]',
    "preprocessing": '{"mean": [0, 0, 0], "std": [1, 1, 1], "scale": 1.0, "channel_order": "rgb"}',
}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"configuration": "E"}, "configuration 'E' is not one of A, B, C, D"),
        ({"form": "../x"}, "form '../x' is not one of paper, modern"),
        ({"image_size": "1000000"}, "image_size 1000000 is not between 32 and 2048 pixels"),
        ({"image_size": "-1"}, "image_size -1 is not between 32 and 2048 pixels"),
        ({"image_size": "wide"}, "invalid literal"),
        ({"classes": "3"}, "not iterable"),
        ({"classes": "[" * 100_000}, "recursion"),
        ({"head": "odd"}, "odd"),
        ({"head": "score", "classes": "[]", "scale": "[1]"}, "not enough values"),
        ({"preprocessing": "[]"}, "not a normalisation"),
        ({"preprocessing": '"x"'}, "not a normalisation"),
    ],
)
def test_checkpoint_metadata_are_validated(metadata: dict[str, str], said: str) -> None:
    data = save({"logit.weight": torch.zeros(1, 512)}, METADATA | metadata)
    with pytest.raises(InputError, match=f"^x: is not a checkpoint of raypipe: .*{said}"):
        TrainedModel.from_bytes(data, "x")


@pytest.mark.parametrize("header", [b"[]", b"3", b'{"__metadata__": []}', b'{"__metadata__": {"configuration": 1}}'])
def test_invalid_header_raises_one_line_error(header: bytes) -> None:
    with pytest.raises(InputError, match=r"^x: is not a checkpoint of raypipe: "):
        TrainedModel.from_bytes(len(header).to_bytes(8, "little") + header, "x")
