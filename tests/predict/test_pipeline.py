"""A model that raypipe trained, applied to pictures it has not seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raypipe.config import Config
from raypipe.errors import ConfigError, InputError
from raypipe.predict import pipeline
from raypipe.predict.model import TrainedModel, read_checkpoint
from tests.train.here import train_here
from tests.training_root import change, jpeg


@pytest.fixture
def trained(training: Config) -> Config:
    """The small root with configuration A trained."""
    config = change(training, train={"config": "A", "epochs": 4, "save": "best"})
    train_here(config, "train/A", 1)
    return config


@pytest.mark.usefixtures("ray_session")
def test_new_pictures_get_probabilities_and_broken_ones_a_reason(trained: Config, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    folder = tmp_path / "new"
    folder.mkdir()
    for i in range(12):
        (folder / f"{i:02d}.jpg").write_bytes(jpeg(rng, 190 if i % 2 else 70))
    (folder / "broken.jpg").write_bytes(b"no picture")
    config = change(trained, predict={"model": "train/A", "inputs": [str(folder)]})
    record = pipeline.run(config)
    rows = pd.read_parquet(f"{config.root}/predict/default")
    assert len(rows) == record.rows_out == 13
    assert record.facts["errors"] == 1
    broken = rows[rows.path.str.endswith("broken.jpg")].iloc[0]
    assert "cannot be decoded" in broken.error
    assert pd.isna(broken.probability)
    good = rows[rows.error.isna()]
    assert ((good.probability > 0.5) == (good.label == "top")).all()
    model = TrainedModel.from_bytes(*reversed(read_checkpoint(config.open_storage(), "train/A")))
    assert model.classes == ("bottom", "top")
    assert pipeline.run(config).run_id == record.run_id
    storage = config.open_storage()
    with pytest.raises(ConfigError, match="'elsewhere' is not allowed"):
        read_checkpoint(storage, "elsewhere")
    with pytest.raises(InputError, match="that model was not kept; kept are A-0"):
        read_checkpoint(storage, "train/A/B-0")
    with pytest.raises(InputError, match="there is no such file"):
        read_checkpoint(storage, str(tmp_path / "absent.safetensors"))
    with pytest.raises(InputError, match="is not a checkpoint of raypipe"):
        TrainedModel.from_bytes(b"\x00" * 64, "x.safetensors")
