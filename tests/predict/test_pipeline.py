"""A model trained by raypipe, applied to new pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import ConfigError, InputError, StageError
from raypipe.pictures.formats import FORMATS
from raypipe.predict import pipeline
from raypipe.predict.model import TrainedModel, read_checkpoint
from raypipe.predict.unit_predictor import UnitPredictor
from tests.deadly import deadly
from tests.train.here import train_here
from tests.training_root import change, jpeg

__all__ = ["deadly"]


@pytest.fixture
def trained(training: Config) -> Config:
    """The small root with configuration A trained."""
    config = change(training, train={"config": "A", "epochs": 4, "save": "best"})
    train_here(config, "train/A", 1)
    return config


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray can be joined, even if other tests have started one."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)


def write_pictures(folder: Path, count: int, seed: int = 9) -> list[Path]:
    """Write dark and bright pictures alternately."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    paths = [folder / f"{i:02d}.jpg" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(jpeg(rng, 190 if i % 2 else 70))
    return paths


def predicting(config: Config, *inputs: object, name: str = "default") -> Config:
    return change(config, predict={"model": "train/A", "inputs": [str(item) for item in inputs], "name": name})


def table(config: Config) -> pa.Table:
    return tables.read_table(config.open_storage(), f"predict/{config.predict.name}")


@pytest.mark.usefixtures("no_ray")
def test_pictures_get_probabilities_or_a_reason(
    trained: Config, tmp_path: Path, deadly: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new"
    write_pictures(folder, 12)
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "deadly.jpg").write_bytes(deadly)
    rows = ["path,x", "new/00.jpg,1", "http://host/a.jpg,2", ",3", "new/absent.jpg,4", "new/01.jpg,5", "one field"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    config = predicting(trained, folder, tmp_path / "list.csv")
    record = pipeline.run(config)
    assert "ray" not in sys.modules
    assert (record.rows_in, record.rows_out, record.dropped) == (20, 18, {"named_twice": 2})
    found = pd.read_parquet(f"{config.root}/predict/default")
    reasons = found[found.error.notna()]
    assert dict(zip(reasons.path.str.removeprefix(f"{tmp_path}/"), reasons.error, strict=True)) == {
        "new/broken.jpg": f"picture cannot be decoded: is none of {', '.join(FORMATS)}; begins with b'no picture'",
        "new/deadly.jpg": "picture cannot be decoded: the decoder's process ended: SIGSEGV",
        "http://host/a.jpg": "http:// is not read by predict; fetch it with `raypipe ingest`",
        "": f"is no row: wrong_number_of_fields in {tmp_path}/list.csv: one field",
        "new/absent.jpg": "there is no such file",
    }
    assert record.facts["errors"] == len(reasons) == sum(record.facts["reasons"].values()) == 6
    assert record.facts["reasons"]["picture cannot be decoded"] == 2
    assert reasons.probability.isna().all()
    good = found[found.error.isna()]
    assert ((good.probability > 0.5) == (good.label == "top")).all()
    assert "18 pictures, 6 not readable (2 picture cannot be decoded, " in capsys.readouterr().out
    assert pipeline.run(config).run_id == record.run_id


def test_missing_models_raise_error(trained: Config, tmp_path: Path) -> None:
    storage = trained.open_storage()
    model = TrainedModel.from_bytes(*reversed(read_checkpoint(storage, "train/A")))
    assert model.classes == ("bottom", "top")
    with pytest.raises(ConfigError, match="'elsewhere' is not allowed"):
        read_checkpoint(storage, "elsewhere")
    with pytest.raises(InputError, match="this model was not saved; saved are A-0"):
        read_checkpoint(storage, "train/A/B-0")
    with pytest.raises(InputError, match="there is no such file"):
        read_checkpoint(storage, str(tmp_path / "absent.safetensors"))
    with pytest.raises(InputError, match="is not a checkpoint of raypipe"):
        TrainedModel.from_bytes(b"\x00" * 64, "x.safetensors")


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("in_list", [False, True])
def test_changed_picture_at_same_path_is_new_input(trained: Config, tmp_path: Path, in_list: bool) -> None:
    first, second = write_pictures(tmp_path / "new", 2)
    (tmp_path / "list.csv").write_text(f"path\n{first}\n{second}\n")
    config = predicting(trained, tmp_path / "list.csv" if in_list else tmp_path / "new")
    before = table(config) if pipeline.run(config) else None
    status = first.stat()
    first.write_bytes(second.read_bytes()[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(StageError, match="input pictures has changed; use --overwrite"):
        pipeline.run(config)
    pipeline.run(change(config, overwrite=True))
    after = table(config)
    assert after["probability"][0] != before["probability"][0]
    assert after["probability"][1] == before["probability"][1]


@pytest.mark.usefixtures("no_ray")
def test_interrupted_run_resumes_only_with_same_pictures(
    trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_UNIT", 3)
    paths = write_pictures(tmp_path / "new", 8)
    whole, config = predicting(trained, tmp_path / "new", name="whole"), predicting(trained, tmp_path / "new")
    pipeline.run(whole)
    predict, begun = UnitPredictor.predict, []

    def interrupted(self: UnitPredictor, unit: str, pictures: list) -> None:
        begun.append(unit)
        if len(begun) == 2:
            raise KeyboardInterrupt
        predict(self, unit, pictures)

    with monkeypatch.context() as patched:
        patched.setattr(UnitPredictor, "predict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(config)
    kept = paths[0].read_bytes()
    # The row of this picture is already staged. The run must not mix pictures of different times.
    paths[0].write_bytes(paths[1].read_bytes())
    with pytest.raises(StageError, match="has an unfinished run of another configuration or input: input pictures"):
        pipeline.run(config)
    paths[0].write_bytes(kept)
    monkeypatch.setattr(UnitPredictor, "predict", lambda *given: (begun.append(given[1]), predict(*given)))
    pipeline.run(config)
    assert begun == ["00000", "00001", "00001", "00002"]
    assert table(config).equals(table(whole))


@pytest.mark.usefixtures("ray_session")
def test_table_is_equal_on_ray(trained: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_UNIT", 5)
    write_pictures(tmp_path / "new", 12)
    (tmp_path / "new" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "new" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg(np.random.default_rng(1), 100))
    here, there = (predicting(trained, tmp_path / "new", name=name) for name in ("here", "there"))
    on_ray = pipeline.run(there)
    with monkeypatch.context() as patched:
        patched.delenv("RAY_ADDRESS", raising=False)
        patched.delitem(sys.modules, "ray")
        alone = pipeline.run(here)
        assert "ray" not in sys.modules
    assert table(there).equals(table(here))
    assert on_ray.rows_out == 14
    assert on_ray.facts == alone.facts
    assert on_ray.inputs == alone.inputs
