"""The report of heads that the paper does not have, compared with counts of the same predictions."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy import stats

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.report import headline, page, table1_columns, training_results
from raypipe.report.figures.head_figures import confusion
from raypipe.report.model_quality import measure_predictions
from raypipe.report.summary import summary_lines
from raypipe.statistics.intervals import auc_interval, spearman_interval, wilson_interval
from raypipe.tables.root_tables import RootTables
from raypipe.tables.schemas import LABEL_TYPES, labels_schema
from raypipe.train.data.images import image_set
from raypipe.train.data.target import Target
from raypipe.train.networks.heads import make_head
from raypipe.train.results.trial_result import TrialResult, prediction_rows, results_json, table1_csv
from raypipe.train.trial_plan import Trial
from tests.report.root import commit, make_world, write_images, write_posts
from tests.report.test_pipeline import page_of

N = 160
TARGETS = {
    "classes": Target("classes", ("q1", "q2", "q3")),
    "tags": Target("tags", ("sea", "sun", "cat")),
    "score": Target("score", ()),
}
KINDS = {"classes": "class", "tags": "hashtags", "score": "continuous"}


def draw(target: Target, sharp: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of N pictures, and predictions with noise."""
    rng = np.random.default_rng(3)
    noise = np.random.default_rng([seed, 4])
    if target.kind == "score":
        labels = rng.normal(size=N)
        return labels, 0.5 * (sharp * labels + noise.normal(size=N))
    if target.kind == "tags":
        labels = (rng.random((N, 3)) < [0.5, 0.3, 0.2]).astype(np.float32)
        return labels, 1 / (1 + np.exp(-sharp * (labels - 0.5) - noise.normal(size=(N, 3))))
    labels = rng.choice(3, N, p=[0.5, 0.3, 0.2])
    weights = np.exp(sharp * np.eye(3)[labels] + noise.normal(size=(N, 3)))
    return labels, weights / weights.sum(1, keepdims=True)


def write(config: Config, kind: str, sharps: dict[str, float], table: str = "sweep", seeds: int = 2) -> pd.DataFrame:
    """Write labels and a complete training table as the stages do. Returns the predictions."""
    target, storage, ids = TARGETS[kind], config.open_storage(), [f"p{i:05d}" for i in range(N)]
    frames, results = [], []
    halves = {"val": slice(0, N // 2), "test": slice(N // 2, N)}
    for letter, sharp in sharps.items():
        for seed in range(seeds):
            labels, found = draw(target, sharp, seed)
            head, trial = make_head(target, torch.from_numpy(labels)), Trial(letter, seed)
            measures, accuracies = {}, {}
            for split, half in halves.items():
                images = np.zeros((N // 2, 3, 8, 8), np.uint8)
                pictures = image_set(images, labels[half], ids[half], labels.dtype.type)
                shown = found[half].astype(np.float32)
                frames.append(prediction_rows(trial, 2, split, pictures, target, shown))
                measures[split] = head.metrics(shown, labels[half])
                accuracies[split] = head.accuracy(shown, labels[half])
            rows: list[dict[str, Any]] = [
                {
                    "trial": trial.name, "configuration": letter, "seed": seed, "epoch": epoch,
                    "train_loss": 1.0 / epoch, "train_accuracy": None if kind == "score" else 0.5,
                    "val_loss": 1.2 - 0.2 * sharp + (epoch != 2) * 0.1,
                    "val_accuracy": None if kind == "score" else accuracies["val"] - (epoch != 2) * 0.05,
                    "images_per_s": 50.0, "mfu": None, "data_wait": 0.0,
                    **{f"val_{name}": value for name, value in measures["val"].items()},
                }
                for epoch in (1, 2, 3)
            ]  # fmt: skip
            results.append(TrialResult(trial.name, letter, seed, rows, accuracies["test"], measures["test"]))
    kept = labels[:, None] if labels.ndim == 1 else labels
    own = {
        "classes": lambda row: target.names[int(row[0])],
        "tags": lambda row: [tag for tag, held in zip(target.names, row, strict=True) if held],
        "score": lambda row: float(row[0]),
    }[kind]
    split_of = ["val"] * (N // 2) + ["test"] * (N // 2)
    lines = [
        {"post_id": post_id, "label": own(row), "split": split}
        for post_id, row, split in zip(ids, kept, split_of, strict=True)
    ]
    scheme = json.dumps({"scheme": {"classes": "quantiles", "tags": "hashtags", "score": "continuous"}[kind]})
    schema = labels_schema(LABEL_TYPES[KINDS[kind]])
    commit(storage, "labels", pa.Table.from_pylist(lines, schema=schema), files={"_model.json": scheme.encode()})
    commit(
        storage, table, parts={"predictions": pa.concat_tables(frames)}, rows_in=0,
        files={"results.json": results_json(results), "table1.csv": table1_csv(results)},
        facts={"head": kind, "classes": list(target.names)},
    )  # fmt: skip
    return pa.concat_tables(frames).to_pandas()


@pytest.fixture(scope="module", params=list(TARGETS))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Config, pd.DataFrame]:
    """A generated world with a training by one head. B predicts something, A nothing."""
    config = load_config(root=str(tmp_path_factory.mktemp("heads") / "root"), ray={"dashboard": False})
    posts, status = make_world()
    write_posts(config.open_storage(), posts)
    write_images(config.open_storage(), posts, status)
    return request.param, config, write(config, request.param, {"A": 0.0, "B": 2.0})


def test_measure_equals_plain_count_of_test_predictions(whole: tuple[str, Config, pd.DataFrame]) -> None:
    kind, config, predictions = whole
    found = training_results.build(RootTables.open(config.open_storage()))
    assert found is not None
    assert (found.target, found.left_out) == (TARGETS[kind], ())
    assert found.best is not None
    assert found.best.key == "B"
    for row in found.rows:
        seen = row.measured
        assert seen is not None
        assert (seen.split, seen.n, seen.ceiling, row.paper) == ("test", N // 2, None, None)
        own = predictions[(predictions["configuration"] == row.key) & (predictions["split"] == "test")]
        by_seed = [rows for _, rows in own.groupby("seed")]
        if kind == "classes":
            calls = own.loc[own.groupby(["seed", "post_id"])["probability"].idxmax()]
            assert seen.value == pytest.approx((calls["label"] == calls["class"]).mean(), abs=1e-6)
            assert (seen.low, seen.high) == wilson_interval(round(seen.value * N / 2), N // 2)
            assert seen.chance == own["label"].value_counts(normalize=True).max()
        elif kind == "tags":
            for tag in seen.tags:
                each = [rows[rows["class"] == tag.name] for rows in by_seed]
                areas = [
                    stats.mannwhitneyu(
                        rows.loc[rows["label"] == tag.name, "probability"], rows.loc[rows["label"] == "", "probability"]
                    ).statistic
                    / ((rows["label"] == "").sum() * (rows["label"] == tag.name).sum())
                    for rows in each
                ]
                assert tag.roc_auc == pytest.approx(np.mean(areas))
                assert tag.prevalence == (each[0]["label"] == tag.name).mean()
                low, _ = auc_interval(tag.roc_auc, *((each[0]["label"] == name).sum() for name in (tag.name, "")))
                assert (tag.low, tag.beats_chance) == (pytest.approx(low), row.key == "B")
            assert seen.value == pytest.approx(np.mean([tag.roc_auc for tag in seen.tags]))
        else:
            ranks = np.mean([stats.spearmanr(rows["predicted"], rows["score"]).statistic for rows in by_seed])
            assert seen.value == pytest.approx(ranks)
            assert (seen.low, seen.high) == pytest.approx(spearman_interval(ranks, N // 2))
            errors = [math.sqrt(((rows["predicted"] - rows["score"]) ** 2).mean()) for rows in by_seed]
            assert seen.further["rmse"] == pytest.approx(np.mean(errors))
        assert (row.short_claim.startswith("beats"), row.key) in ((True, "B"), (False, "A"))


def test_page_describes_results_of_each_head(whole: tuple[str, Config, pd.DataFrame]) -> None:
    kind, config, _ = whole
    whole_page = page_of(config)
    found = training_results.build(RootTables.open(config.open_storage()))
    assert found is not None
    assert whole_page.open == []
    assert len(whole_page.ids) == len(set(whole_page.ids)), "an id stands twice"
    row, best = whole_page.row("training", "B mean of 2 seeds"), found.best
    assert best is not None
    assert best.measured is not None
    assert row[1:-1] == table1_columns.cells(found, best)
    assert row[-1] == "50"
    title = {
        "classes": f"names the right one of 3 classes for {100 * best.measured.value:.1f} % of unseen test pictures",
        "tags": "recognises 3 of 3 hashtags better than chance in unseen test pictures",
        "score": f"explains {100 * (best.measured.further.get('r2') or 0):.1f} % of the score’s variance",
    }[kind]
    assert f"Configuration B {title}" in whole_page.text["head"]
    text = whole_page.text["head"] + whole_page.text["training"]
    assert "perfect judge" not in text
    assert "nan" not in text.lower().split()
    assert "None" not in text
    figure = {"classes": "confusion", "tags": "tags", "score": "scores"}[kind]
    folder = Path(config.root) / "report"
    names = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert {"validation", "overfitting", "accuracy", figure} <= names
    table = next(csv.DictReader(io.StringIO((folder / "tables" / "table1.csv").read_text())))
    measure = {"classes": "accuracy", "tags": "roc_auc", "score": "spearman"}[kind]
    assert float(table[measure]) == pytest.approx(found.rows[0].measured.value if found.rows[0].measured else None)
    assert (folder / "tables" / "tags.csv").exists() == (kind == "tags")


def test_summary_fits_80_columns_with_same_cells(whole: tuple[str, Config, pd.DataFrame]) -> None:
    _, config, _ = whole
    found = training_results.build(RootTables.open(config.open_storage()))
    assert found is not None
    lines = summary_lines(config)
    assert max(map(len, lines[:-1])) <= 80
    for row in found.rows:
        line = next(line for line in lines if line.startswith(f"{row.key}  "))
        assert line.split("  ")[0] == row.key
        assert all(cell in line for cell in table1_columns.cells(found, row, narrow=True))
        assert line.endswith(row.short_claim)


def content_of(config: Config) -> page.PageContent:
    return page.read_content(RootTables.open(config.open_storage()))


def title_of(config: Config) -> str:
    found = content_of(config)
    return headline.build(found.funnel, found.regression, found.training, found.classes).title


@pytest.mark.parametrize("kind", TARGETS)
def test_headline_says_no_better_than_chance(config: Config, kind: str) -> None:
    write(config, kind, {"A": 0.0})
    words = {
        "classes": "separates 3 classes no better than always naming the most frequent",
        "tags": "recognises none of 3 hashtags better than chance",
        "score": "ranks pictures by their score no better than chance",
    }[kind]
    assert words in title_of(config)


def test_trainings_on_other_labels_are_listed_as_left_out(config: Config) -> None:
    write(config, "classes", {"A": 2.0}, "train/old")
    write(config, "score", {"A": 2.0}, "train/new")
    found = training_results.build(RootTables.open(config.open_storage()))
    assert found is not None
    assert ([row.table for row in found.rows], found.left_out) == (["train/new"], ("train/old",))
    html = page.render(content_of(config), {}, title="x", n_examples=0)
    assert "another kind of labels: train/old." in html


def test_new_labels_are_not_combined_with_old_training(config: Config) -> None:
    write(config, "score", {"A": 2.0})
    lines = [{"post_id": "p0", "label": "ants", "split": "val"}, {"post_id": "p1", "label": "bees", "split": "val"}]
    commit(config.open_storage(), "labels", pa.Table.from_pylist(lines, schema=labels_schema(pa.string())))
    assert title_of(config) == "An empty root"


@pytest.mark.parametrize(("n_tags", "beats"), [(1, True), (20, False)])
def test_many_tags_need_stronger_evidence(n_tags: int, beats: bool) -> None:
    """Without any signal, one tag in 40 is above chance by its own interval."""
    n, rng = 120, np.random.default_rng(0)
    frames = []
    for i in range(n_tags):
        carried = np.arange(n) % 2 == 0
        frame = pd.DataFrame({"class": f"t{i}", "label": np.where(carried, f"t{i}", ""), "split": "test", "seed": 0})
        frames.append(frame.assign(post_id=[f"p{j}" for j in range(n)], probability=rng.random(n) + 0.17 * carried))
    found = measure_predictions(Target("tags", tuple(f"t{i}" for i in range(n_tags))), {}, pd.concat(frames), None, {})
    assert found is not None
    assert found.tags[0].low is not None
    assert found.tags[0].low > 0.5
    assert found.tags[0].beats_chance == beats


def test_confusion_counts_likeliest_class_per_picture_and_seed() -> None:
    rows = [
        ("x", 0, "a", "a", 0.4), ("x", 0, "a", "b", 0.6), ("y", 0, "a", "a", 0.5), ("y", 0, "a", "b", 0.5),
        ("z", 0, "b", "a", 0.1), ("z", 0, "b", "b", 0.9), ("x", 1, "a", "a", 0.8), ("x", 1, "a", "b", 0.2),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["post_id", "seed", "label", "class", "probability"])
    found = confusion(frame, ("a", "b", "c"))
    np.testing.assert_allclose(found.to_numpy()[:2], [[2 / 3, 1 / 3, 0], [0, 1, 0]])
    assert found.loc["c"].isna().all()
