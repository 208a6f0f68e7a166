"""A trial of each head, from labels to staged files, and the use of its checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.predict.model import TrainedModel
from raypipe.tables import TableWriter
from raypipe.tables.schemas import predictions_schema
from raypipe.train.decode import prepare_pictures
from raypipe.train.networks.weights import load_weights
from raypipe.train.trial_plan import Trial, TrialPlan
from raypipe.train.trials.run_trial import run_trial
from tests.training_root import change, relabel

FURTHER = {
    "classes": set[str](),
    "tags": {"val_roc_auc", "val_average_precision", "val_tags"},
    "score": {"val_r2", "val_rmse", "val_spearman"},
}


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("head", FURTHER)
def test_staged_checkpoint_repeats_staged_predictions(training: Config, head: str) -> None:
    relabel(training, head)
    config = change(training, train={"save": "best", "epochs": 3})
    pictures = prepare_pictures(config)
    plan = TrialPlan(Trial("A", 0), config.train, pictures, TableWriter(config.open_storage(), "train/x", "0"))
    result = run_trial(plan, load_weights("random"), device="cpu")
    own = {"trial", "configuration", "seed", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"}
    assert set(result.rows[0]) == own | {"images_per_s", "mfu", "data_wait"} | FURTHER[head]
    for row in result.rows:
        assert (row["train_accuracy"] is None, row["val_accuracy"] is None) == (head == "score",) * 2
    data = config.open_storage().read(f"{plan.writer.staging}/checkpoints/A-0/best.safetensors")
    model = TrainedModel.from_bytes(data, "best.safetensors")
    assert model.head.target == pictures.target
    for split in ("val", "test"):
        columns = predictions_schema(head).names
        rows = tables.read_staged(plan.writer, f"A-0-{split}", columns, folder="predictions").to_pandas()
        assert set(rows["epoch"]) == {result.best["epoch"]}
        found = model.predictions(pictures.load(split).images[:].numpy())
        shown = rows["predicted" if head == "score" else "probability"].to_numpy()
        np.testing.assert_allclose(shown, found.ravel(), rtol=1e-4, atol=1e-5)
        check(head, rows, result.best if split == "val" else {f"val_{k}": v for k, v in result.test_metrics.items()})
    if head != "score":
        assert result.test_accuracy == pytest.approx(accuracy(head, rows))
        assert result.best["val_accuracy"] == max(row["val_accuracy"] for row in result.rows)
    else:
        assert result.test_accuracy is None
        assert result.best["val_loss"] == min(row["val_loss"] for row in result.rows)


def check(head: str, rows: pd.DataFrame, measures: dict[str, object]) -> None:
    """The measures equal those computed from the rows of predictions/."""
    if head == "tags":
        for name, values in measures["val_tags"].items():  # type: ignore[attr-defined]
            own = rows[rows["class"] == name]
            assert values["prevalence"] == (own["label"] == name).mean()
        assert rows["label"].isin(["", "Sun", "sea"]).all()
    if head == "score":
        assert measures["val_rmse"] == pytest.approx(math.sqrt(((rows["score"] - rows["predicted"]) ** 2).mean()))
        assert rows["label"].astype(float).tolist() == rows["score"].tolist()


def accuracy(head: str, rows: pd.DataFrame) -> float:
    if head == "tags":
        return float(((rows["probability"] > 0.5) == (rows["label"] == rows["class"])).mean())
    calls = rows.loc[rows.groupby("post_id")["probability"].idxmax()]
    return float((calls["label"] == calls["class"]).mean())
