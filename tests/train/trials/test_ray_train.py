"""A failed trial on Ray Train: its message and what it leaves."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from raypipe.config import Config
from raypipe.errors import StageError
from raypipe.predict import pipeline
from raypipe.train import sweep
from tests.training_root import change


@pytest.mark.usefixtures("ray_session")
def test_nan_loss_keeps_best_earlier_epoch(training: Config, tmp_path: Path) -> None:
    # With this learning rate, the second step diverges.
    config = change(training, train={"config": "B", "name": "x", "learning_rate": 1.0, "save": "best"})
    with pytest.raises(StageError, match=r"train/x: trial B-0 failed: training: the .*loss is nan .*epoch 2") as said:
        sweep.run_train(config)
    found = re.search(r"its best epoch so far: --predict.model (\S+/epoch-1\.safetensors);", str(said.value))
    assert found
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rows = pd.read_parquet(f"{config.root}/images", columns=["post_id", "image"])
    for row in rows.head(3).itertuples():
        (pictures / f"{row.post_id}.jpg").write_bytes(row.image)
    pipeline.run(change(config, predict={"model": found[1], "inputs": [str(pictures)]}))
    predicted = pd.read_parquet(f"{config.root}/predict/default")
    assert predicted["error"].isna().all()
    assert predicted["probability"].between(0, 1).all()
