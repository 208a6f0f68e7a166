"""`judge` from tables to its file: its results, the inputs it needs, and reruns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.learning_options import LabelOptions
from raypipe.config.load import load_config
from raypipe.errors import ConfigError, InputError, StageError
from raypipe.judge import pipeline
from raypipe.judge.pipeline import OUTLOOK, run
from raypipe.label.pipeline import run as label
from raypipe.tables.schemas import POSTS
from tests.label.roots import labelled, made_posts, put


def judged(config: Config, **options: Any) -> Config:
    return load_config(root=config.root, ray={"dashboard": False}, judge={"bootstraps": 5, **options})


def result(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config.open_storage().read("judge/judge.json"))
    return found


@pytest.fixture
def root(config: Config) -> Config:
    posts = made_posts()
    put(
        config, "posts", posts.set_column(posts.column_names.index("comments"), "comments", pa.array(range(len(posts))))
    )
    label(labelled(config, eligible="post"))
    return config


@pytest.mark.parametrize("where", ["model", "option"])
def test_hostile_formula_executes_no_code(root: Config, where: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    hostile = f"likes ~ I(followers + hash(open({str(marker)!r}, 'w')))"
    options: dict[str, Any] = {"formulas": [hostile]} if where == "option" else {}
    if where == "model":
        storage = root.open_storage()
        model = json.loads(storage.read("labels/_model.json"))
        storage.write("labels/_model.json", json.dumps(model | {"formula": hostile}).encode())
    with pytest.raises(ConfigError, match="name 'hash' is not defined"):
        run(judged(root, **options))
    assert not marker.exists()


def test_judge_writes_all_results(root: Config, capsys: pytest.CaptureFixture[str]) -> None:
    record = run(judged(root))
    found = result(root)
    assert found["n"] == record.facts["n"] > 2_000
    assert found["baseline"][0]["label"] == "top"
    assert 0.4 < found["baseline"][0]["low"] < 0.5 < found["baseline"][0]["high"] < 0.6
    pairs = {(item["first"], item["second"]): item for item in found["overlap"]}
    assert len(pairs) == 12
    assert pairs["labels", "residual"]["same"] == 1.0
    assert [item["formula"].partition("n_hashtags")[2] for item in found["formulas"]] == [
        "",
        " + log10(1 + comments)",
        " + C(hour) + C(weekday)",
    ]
    # All captions have the same length, and the collection time is unknown.
    reasons = {text.partition("n_hashtags + ")[2]: reason for text, reason in found["left_out"].items()}
    assert set(reasons) == {"log10(1 + caption_length)", "log10(1 + age_days)"}
    assert "is collinear with Intercept" in reasons["log10(1 + caption_length)"]
    assert "no post has a value in each column of" in reasons["log10(1 + age_days)"]
    assert found["bootstrap"]["same"][0] > 0.8
    shown = capsys.readouterr().out
    assert "metadata alone predict top with a ROC AUC of 0." in shown
    assert "of the labels stay under a bootstrap of users" in shown
    assert run(judged(root)).run_id == record.run_id
    with pytest.raises(StageError, match=r"judge.sample was 200000, is 500"):
        run(judged(root, sample=500))


def test_sample_does_not_depend_on_files(root: Config, tmp_path: Any) -> None:
    other = load_config(root=str(tmp_path / "other"))
    posts = made_posts()
    put(
        other,
        "posts",
        posts.set_column(posts.column_names.index("comments"), "comments", pa.array(range(len(posts)))),
        parts=1,
    )
    label(labelled(other, eligible="post"))
    run(judged(root, sample=600))
    run(judged(other, sample=600))
    assert result(root)["n"] == result(other)["n"]
    assert 450 < result(root)["n"] < 750
    assert result(root)["baseline"] == result(other)["baseline"]


def test_own_formulas_are_compared(root: Config) -> None:
    run(judged(root, formulas="log10(1 + likes) ~ bs(followers, df=4, degree=3); log10(1 + likes) ~ comments"))
    assert len(result(root)["formulas"]) == 3
    with pytest.raises(ConfigError, match="cannot be read"):
        run(judged(root, formulas="likes ~ (followers"))
    with pytest.raises(InputError, match=r"judge.formulas: posts/ has no column 'nope'"):
        run(judged(root, formulas="likes ~ nope"))


def test_scheme_without_score_still_has_baseline(config: Config) -> None:
    put(config, "posts", made_posts())
    label(labelled(config, eligible="post", scheme="column", column="kind"))
    run(judged(config))
    found = result(config)
    assert [item["label"] for item in found["baseline"]] == ["bee"]
    assert (found["overlap"], found["bootstrap"], found["formulas"]) == ([], None, [])


def test_karpathy_labels_are_compared_with_residual_labels(config: Config) -> None:
    put(config, "posts", made_posts())
    label(labelled(config, eligible="post", scheme="karpathy", group=40))
    run(judged(config))
    found = result(config)
    table = {(item["first"], item["second"]): item for item in found["overlap"]}
    # The sample contains all posts, so its groups equal those of the labels.
    assert table["labels", "karpathy"]["same"] == 1.0
    assert table["residual", "labels"]["same"] > 0.9
    assert table["labels", "residual"]["same"] < 0.3
    assert (found["bootstrap"], found["formulas"]) == (None, [])


def test_scores_and_hashtags_have_baselines(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    put(config, "posts", made_posts())
    label(labelled(config, eligible="post", scheme="continuous"))
    run(judged(config))
    assert -0.05 < result(config)["explained"] < 0.05
    assert "metadata alone explain" in capsys.readouterr().out
    label(labelled(config, eligible="post", scheme="hashtags", hashtags=["sun"], overwrite=True))
    run(load_config(root=config.root, overwrite=True, judge={"bootstraps": 5}))
    (found,) = result(config)["baseline"]
    assert found["label"] == "sun"
    assert found["low"] < 0.5
    assert found["auc"] < 0.55
    assert result(config)["explained"] is None


def test_missing_labels_raise_error(config: Config) -> None:
    put(config, "posts", made_posts(100))
    with pytest.raises(StageError, match="labels: does not exist; run `raypipe label"):
        run(judged(config))


def test_outlook_configs_match_compared_formulas() -> None:
    folder = Path(__file__).parents[2] / "configs"
    ready = {load_config(str(file)).label.formula for file in folder.glob("outlook-*.yaml")}
    assert ready == {f"{LabelOptions().formula} + {term}" for term in OUTLOOK}


def test_labels_of_other_posts_are_refused(root: Config) -> None:
    with tables.begin(root.open_storage(), "posts", command="world", config={}, inputs={}, overwrite=True) as staged:
        staged.writer.write("00000", made_posts(100, seed=9))
        staged.commit(rows_in=100)
    with pytest.raises(InputError, match=r"was made from other posts than .*posts; run label again"):
        run(judged(root))


def test_given_labels_are_compared_with_residual_labels(config: Config) -> None:
    posts = made_posts()
    likes = posts["likes"].to_numpy()
    given = np.where(likes > np.quantile(likes, 0.8), "top", np.where(likes < np.quantile(likes, 0.2), "bottom", None))
    put(config, "posts", posts.append_column("people", pa.array(given, pa.string())))
    label(labelled(config, eligible="post", scheme="column", column="people"))
    run(judged(config))
    pairs = {(item["first"], item["second"]): item for item in result(config)["overlap"]}
    assert pairs["likes", "labels"]["same"] == 1.0
    assert 0.2 < pairs["labels", "residual"]["same"] < 0.9


@pytest.mark.parametrize(
    ("formula", "left"),
    [
        ("likes ~ log10(1+comments)", 3),
        ("likes ~ followers + C(weekday) + C(hour)", 3),
        ("likes ~ log10(1 + comments) : followers", 4),
        ("likes ~ followers", 4),
    ],
)
def test_terms_of_the_formula_are_not_added_again(formula: str, left: int) -> None:
    found = pipeline._formulas(load_config(), {"formula": formula}, POSTS)
    assert len(found) == 1 + left
