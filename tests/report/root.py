"""A small realistic root: a generated world, fetched, labelled by a real least-squares fit, and trained on."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import statsmodels.api as sm
from PIL import Image

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.storage import Storage
from raypipe.tables.schemas import IMAGES, POSTS, PREDICTIONS, labels_schema
from raypipe.train.data.target import Target
from raypipe.train.results.comparisons import TrialAnswers, compare_configurations, comparisons_csv, trial_answers

POSTS_N = 1200
TERMS = ("Intercept", "log10(1 + followers)", "n_hashtags")
TRUTH = (0.35, 0.45, 0.012)
FORMULA = "log10(1 + likes) ~ log10(1 + followers) + n_hashtags"


@dataclass
class Built:
    """A root and the numbers it was made from."""

    config: Config
    posts: pd.DataFrame
    labels: pd.DataFrame
    model: dict[str, Any]
    table1: list[dict[str, Any]]
    results: list[dict[str, Any]]
    predictions: pd.DataFrame
    status: list[str] = field(default_factory=list)

    @property
    def storage(self) -> Storage:
        return self.config.open_storage()


def commit(
    storage: Storage,
    table: str,
    rows: pa.Table | None = None,
    *,
    files: dict[str, bytes] | None = None,
    parts: dict[str, pa.Table] | None = None,
    rows_in: int | None = None,
    dropped: dict[str, int] | None = None,
    inputs: dict[str, str] | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a complete table as a stage does."""
    with tables.begin(storage, table, command=table, config={"seed": 0}, inputs=inputs or {}, overwrite=True) as run:
        if rows is not None:
            run.writer.write("00000", rows)
        for folder, part in (parts or {}).items():
            run.writer.write("00000", part, folder=folder)
        for name, data in (files or {}).items():
            run.writer.write_file(name, data)
        out = 0 if rows is None else len(rows)
        run.commit(
            rows_in=out + sum((dropped or {}).values()) if rows_in is None else rows_in,
            rows_out=out,
            dropped=dropped,
            seconds={"work": 1.25},
            facts={"pictures": 7, **(facts or {})},
        )


def jpeg(look: float, side: int = 40) -> bytes:
    """A picture whose warmth depends on its look."""
    warm = int(np.clip(128 + 40 * look, 0, 255))
    sink = io.BytesIO()
    Image.new("RGB", (side, side + 12), (warm, 110, 255 - warm)).save(sink, "JPEG")
    return sink.getvalue()


def make_world(seed: int = 5) -> tuple[pd.DataFrame, list[str]]:
    """Posts with likes by the formula, and the fetch status of each."""
    rng = np.random.default_rng(seed)
    followers = np.maximum(rng.lognormal(6, 1.5, POSTS_N), 1).astype(np.int64)
    hashtags = rng.poisson(6, POSTS_N)
    look, noise = rng.normal(size=POSTS_N), rng.normal(0, 0.25, POSTS_N)
    log_likes = TRUTH[0] + TRUTH[1] * np.log10(1 + followers) + TRUTH[2] * hashtags + 0.3 * look + noise
    posts = pd.DataFrame(
        {
            "post_id": [f"p{i:05d}" for i in range(POSTS_N)],
            "likes": np.maximum(np.round(10**log_likes - 1), 0).astype(np.int64),
            "followers": followers,
            "n_hashtags": hashtags.astype(np.int32),
            "deleted": rng.random(POSTS_N) < 0.1,
            "n_faces": rng.choice([0, 1, 2], POSTS_N, p=[0.3, 0.6, 0.1]),
            "look": look,
            "effect": 0.3 * look,
            "noise": noise,
        }
    )
    status = np.where(posts["deleted"], "deleted", np.where(rng.random(POSTS_N) < 0.03, "gone", "ok"))
    return posts, status.tolist()


def write_posts(storage: Storage, posts: pd.DataFrame) -> None:
    columns = {name: posts[name] for name in ("post_id", "likes", "followers", "n_hashtags", "deleted")}
    filled = {field.name: [None] * len(posts) for field in POSTS} | columns
    filled |= {
        "image_url": ["http://127.0.0.1/x.jpg"] * len(posts),
        "user_id": [f"u{i % 90}" for i in range(len(posts))],
    }
    commit(
        storage, "posts", pa.Table.from_pydict({k: list(v) for k, v in filled.items()}, schema=POSTS),
        dropped={"negative_likes": 3, "duplicate_post_id": 2},
    )  # fmt: skip
    truth = posts[["post_id", "look", "effect", "noise"]]
    facts = {"formula": "…", "params": dict(zip(TERMS, TRUTH, strict=True)), "effect_sd": 0.3, "noise_sd": 0.25}
    commit(
        storage, "truth", pa.Table.from_pandas(truth, preserve_index=False),
        files={"_truth.json": json.dumps(facts).encode()},
    )  # fmt: skip


def write_images(storage: Storage, posts: pd.DataFrame, status: list[str], *, with_bytes: bool = True) -> None:
    rows = []
    for post, state in zip(posts.itertuples(), status, strict=True):
        ok = state == "ok"
        data = jpeg(post.look) if ok and with_bytes else None
        row = {field.name: None for field in IMAGES} | {
            "post_id": post.post_id, "url": "http://127.0.0.1/x.jpg", "status": state,
            "attempts": int(state != "deleted"), "n_faces": int(post.n_faces) if ok else None,
            "image": data, "n_bytes": len(data) if data else None,
        }  # fmt: skip
        rows.append(row)
    commit(storage, "images", pa.Table.from_pylist(rows, schema=IMAGES))


def fit_labels(posts: pd.DataFrame, status: list[str]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Labels from the residuals of statsmodels' fit over posts with one face: the lowest and the highest quarter."""
    own = posts[(np.array(status) == "ok") & (posts["n_faces"] == 1)].reset_index(drop=True)
    X = np.column_stack([np.ones(len(own)), np.log10(1 + own["followers"]), own["n_hashtags"]])
    y = np.log10(1 + own["likes"].to_numpy())
    fit = sm.OLS(y, X).fit()
    labels = own[["post_id"]].assign(user_id=None, y=y, fitted=fit.fittedvalues, score=fit.resid)
    rank = labels["score"].rank(method="first").to_numpy()
    labels["label"] = np.where(rank <= len(own) // 4, "bottom", np.where(rank > len(own) - len(own) // 4, "top", None))
    side = np.random.default_rng(1).choice(["train", "val", "test"], len(own), p=[0.5, 0.25, 0.25])
    labels["split"] = np.where(labels["label"].notna(), side, None)

    def by_term(values: Any) -> dict[str, Any]:
        return dict(zip(TERMS, np.asarray(values).tolist(), strict=True))

    model = {
        "scheme": "residual", "formula": FORMULA, "nobs": int(fit.nobs), "params": by_term(fit.params),
        "bse": by_term(fit.bse), "tvalues": by_term(fit.tvalues), "pvalues": by_term(fit.pvalues),
        "conf_int": by_term(fit.conf_int()), "rsquared": fit.rsquared, "rsquared_adj": fit.rsquared_adj,
        "fvalue": fit.fvalue, "ssr": fit.ssr, "cov_type": "nonrobust",
    }  # fmt: skip
    return labels, model


def write_labels(storage: Storage, labels: pd.DataFrame, model: dict[str, Any], n_posts: int) -> None:
    kind = pa.string()
    rows = pa.Table.from_pandas(labels, schema=labels_schema(kind), preserve_index=False)
    commit(
        storage, "labels", rows, rows_in=n_posts, dropped={"not_one_face": n_posts - len(rows)},
        files={"_model.json": json.dumps(model).encode()},
    )  # fmt: skip


def train(
    labels: pd.DataFrame, looks: pd.Series, sharpness: dict[str, float], seeds: int = 1
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], pd.DataFrame]:
    """Training results of simulated judges who see the look plus noise. The accuracies are counted."""
    rng = np.random.default_rng(2)
    results, frames = [], []
    for letter, sharp in sharpness.items():
        for seed in range(seeds):
            name = f"{letter}-{seed}"
            own = labels[labels["split"].isin(["val", "test"])]
            seen = looks.loc[own["post_id"]].to_numpy() * sharp + rng.normal(size=len(own))
            probability = 1 / (1 + np.exp(-seen))
            frame = own[["post_id", "split", "label"]].assign(
                trial=name, configuration=letter, seed=seed, epoch=3, probability=probability
            )
            frames.append(frame)
            best = accuracy(frame[frame["split"] == "val"])
            for epoch, share in ((1, 0.9), (2, 0.96), (3, 1.0), (4, 0.95)):
                results.append(
                    {
                        "trial": name, "configuration": letter, "seed": seed, "epoch": epoch, "train_loss": 0.7 / epoch,
                        "train_accuracy": 0.5 + 0.1 * epoch, "val_loss": 0.7, "val_accuracy": best * share,
                        "images_per_s": 77.0, "mfu": None, "data_wait": 0.01,
                    }
                )  # fmt: skip
    predictions = pd.concat(frames, ignore_index=True)
    return results, table_1(results, predictions, list(sharpness), seeds), predictions


def accuracy(rows: pd.DataFrame) -> float:
    return float(((rows["probability"] > 0.5) == (rows["label"] == "top")).mean())


def table_1(
    results: list[dict[str, Any]], predictions: pd.DataFrame, letters: list[str], seeds: int
) -> list[dict[str, Any]]:
    found = []
    for letter in letters:
        rows = [row for row in results if row["configuration"] == letter]
        tests = predictions[(predictions["configuration"] == letter) & (predictions["split"] == "test")]
        found.append(
            {
                "configuration": letter,
                "seeds": seeds,
                "max_val_accuracy": round(float(np.mean([r["val_accuracy"] for r in rows if r["epoch"] == 3])), 6),
                "epochs": 4,
                "final_val_accuracy": round(float(np.mean([r["val_accuracy"] for r in rows if r["epoch"] == 4])), 6),
                "test_accuracy": "" if tests.empty else round(accuracy(tests), 6),
            }
        )
    return found


def write_training(
    storage: Storage,
    table: str,
    results: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    predictions: pd.DataFrame,
) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    parts = {"predictions": pa.Table.from_pandas(predictions, schema=PREDICTIONS, preserve_index=False)}
    files = {"results.json": json.dumps(results).encode(), "table1.csv": text.getvalue().encode()}
    if compared := compare_configurations(_answers(predictions), {}):
        files["comparisons.csv"] = comparisons_csv(compared)
    commit(storage, table, parts=parts, files=files, rows_in=0)


def _answers(predictions: pd.DataFrame) -> list[TrialAnswers]:
    split = "test" if predictions["split"].eq("test").any() else "val"
    return trial_answers(predictions, Target("binary", ("bottom", "top")), split)


def build_root(folder: Path, *, seeds: int = 1) -> Built:
    """A complete root in `folder`: posts, truth, images, labels and a sweep of A to D."""
    config = load_config(root=str(folder), ray={"dashboard": False, "num_cpus": 2})
    storage = config.open_storage()
    posts, status = make_world()
    labels, model = fit_labels(posts, status)
    looks = posts.set_index("post_id")["look"]
    results, table1, predictions = train(labels, looks, {"A": 0.0, "B": 1.2, "C": 1.6, "D": 1.8}, seeds)
    write_posts(storage, posts)
    write_images(storage, posts, status)
    write_labels(storage, labels, model, len(posts))
    write_training(storage, "sweep", results, table1, predictions)
    return Built(config, posts, labels, model, table1, results, predictions, status)
