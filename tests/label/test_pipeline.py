"""`label` from tables to tables: counts, files and every scheme; equal for any files, with Ray and with threads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import statsmodels.formula.api as smf

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import InputError, StageError
from raypipe.label.pipeline import run
from raypipe.tables.schemas import IMAGES, labels_schema
from tests.label.roots import N, labelled, made_images, made_posts, model_of, put, read

pytestmark = pytest.mark.usefixtures("ray_session")


def test_paper_defaults_equal_statsmodels(
    world: tuple[Config, pa.Table, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    config, posts, images = world
    record = run(labelled(config, test=0.1))
    ok = pc.and_(pc.equal(images["status"], "ok"), pc.fill_null(pc.equal(images["n_faces"], 1), False))
    frame = posts.filter(ok).to_pandas()
    reference = smf.ols("np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags", frame).fit()
    labels, model = read(config), model_of(config)
    n = len(frame)

    assert labels.schema.equals(labels_schema(pa.string()))
    assert labels["post_id"].to_pylist() == frame["post_id"].tolist()
    assert labels["user_id"].to_pylist() == frame["user_id"].tolist()
    np.testing.assert_allclose(labels["fitted"], reference.fittedvalues, rtol=1e-10)
    np.testing.assert_allclose(labels["score"], reference.resid, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(list(model["params"].values()), reference.params, rtol=1e-10)
    np.testing.assert_allclose(list(model["bse"].values()), reference.bse, rtol=1e-9)
    assert model["rsquared"] == pytest.approx(reference.rsquared, rel=1e-10)
    assert (model["nobs"], model["cov_type"], model["scheme"]) == (n, "nonrobust", "residual")

    low, top = n // 10, n - 9 * n // 10
    counts = Counter(labels["label"].to_pylist())
    assert counts == {"bottom": low, "top": top, None: n - low - top}
    by_score = sorted(zip(labels["score"].to_pylist(), labels["post_id"].to_pylist(), strict=True))
    bottoms = set(labels.filter(pc.equal(labels["label"], "bottom"))["post_id"].to_pylist())
    assert bottoms == {name for _, name in by_score[:low]}
    assert model["thresholds"]["bottom"] == [by_score[0][0], by_score[low - 1][0]]
    assert model["thresholds"]["top"] == [by_score[n - top][0], by_score[-1][0]]

    sides = Counter(labels["split"].to_pylist())
    assert (sides["val"], sides["test"]) == ((low + top) // 4, (low + top) // 10)
    assert sides[None] == counts[None]
    status, faces = Counter(images["status"].to_pylist()), Counter(images["n_faces"].to_pylist())
    assert record.dropped == {
        "deleted": status["deleted"],
        "not_fetched": status["timeout"],
        "no_face": faces[0],
        "several_faces": faces[2],
    }
    assert record.rows_in == N == record.rows_out + sum(record.dropped.values())
    assert record.facts["labels"] == {"bottom": low, "top": top}
    assert record.facts["splits"] == {name: sides[name] for name in ("test", "train", "val")}
    shown = capsys.readouterr().out
    assert f"log10(1 + likes) = {reference.params.iloc[0]:.4g} + {reference.params.iloc[1]:.4g}·log10" in shown
    assert f"{low + top:,} labels of {n:,} eligible posts" in shown


def test_rerun_does_nothing_or_refuses_changed_options(world: tuple[Config, pa.Table, pa.Table]) -> None:
    config, *_ = world
    first = run(labelled(config))
    assert run(labelled(config)).run_id == first.run_id
    with pytest.raises(StageError, match=r"label.quantile was 0.1, is 0.2"):
        run(labelled(config, quantile=0.2))
    with pytest.raises(InputError, match="so a class is empty"):
        run(labelled(config, quantile=1e-5, overwrite=True))
    assert tables.get_record(config.open_storage(), "labels").run_id == first.run_id
    second = run(labelled(config, quantile=0.2, overwrite=True))
    assert second.facts["n_labelled"] > first.facts["n_labelled"]
    assert len(read(config)) == second.rows_out


@pytest.mark.parametrize("cov_type", ["HC3", "cluster"])
def test_robust_errors_over_ray(world: tuple[Config, pa.Table, pa.Table], cov_type: str) -> None:
    config, posts, _ = world
    run(labelled(config, cov_type=cov_type, eligible="post", split="user", on_ray=True))
    frame = posts.filter(pc.invert(posts["deleted"])).to_pandas()
    options = {"cov_kwds": {"groups": frame["user_id"].factorize()[0]}} if cov_type == "cluster" else {}
    formula = "np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags"
    reference = smf.ols(formula, frame).fit(cov_type=cov_type, **options)
    np.testing.assert_allclose(list(model_of(config)["bse"].values()), reference.bse, rtol=1e-9)
    chosen = read(config).filter(pc.is_valid(read(config)["split"])).to_pandas()
    assert (chosen.groupby("user_id")["split"].nunique() == 1).all()


@pytest.mark.parametrize("scheme", ["residual", "karpathy", "continuous"])
def test_ray_and_threads_write_equal_tables(world: tuple[Config, pa.Table, pa.Table], scheme: str) -> None:
    config, *_ = world
    found, models = [], []
    for on_ray in (False, True):
        options = {"scheme": scheme, "cov_type": "cluster", "split": "user", "test": 0.1, "on_ray": on_ray}
        run(labelled(config, overwrite=True, **options))
        found.append(read(config))
        models.append(model_of(config))
    assert found[0].equals(found[1])
    assert models[0] == models[1]


def test_weights_apply_to_regression(world: tuple[Config, pa.Table, pa.Table]) -> None:
    config, posts, _ = world
    run(labelled(config, weights="comments_left", eligible="post"))
    frame = posts.filter(pc.invert(posts["deleted"])).to_pandas()
    frame = frame[frame["comments_left"] > 0]
    formula = "np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags"
    reference = smf.wls(formula, frame, weights=frame["comments_left"]).fit()
    np.testing.assert_allclose(list(model_of(config)["params"].values()), reference.params, rtol=1e-9)
    np.testing.assert_allclose(list(model_of(config)["bse"].values()), reference.bse, rtol=1e-9)
    record = tables.get_record(config.open_storage(), "labels")
    assert record.dropped["no_weight"] == np.sum(posts.to_pandas().query("not deleted")["comments_left"] <= 0)
    text = config.open_storage().read("labels/_summary.txt").decode()
    assert "WLS" in text
    assert f"{reference.rsquared:#8.3f}".strip() in text


def test_listed_near_duplicates_stay_in_one_split(config: Config) -> None:
    posts = made_posts(600)
    ids = posts["post_id"].to_pylist()
    put(config, "posts", posts)
    # In each group of three posts, the second and third are near duplicates of the first.
    pairs = [(name, ids[i - i % 3], "near") for i, name in enumerate(ids) if i % 3 != 2]
    with tables.begin(config.open_storage(), "images", command="world", config={}, inputs={}) as staged:
        images = made_images(posts).set_column(2, IMAGES.field("status"), [pa.array(["ok"] * 600, pa.string())])
        staged.writer.write("0", images)
        listed = pa.table(dict(zip(("post_id", "group", "kind"), zip(*pairs, strict=True), strict=True)))
        staged.writer.write("0", listed, folder="_duplicates")
        staged.commit(rows_in=600)
    record = run(labelled(config, scheme="karpathy", eligible="image"))
    side = dict(zip(read(config)["post_id"].to_pylist(), read(config)["split"].to_pylist(), strict=True))
    together = [(side[a], side[b]) for a, b, _ in pairs if a in side and b in side and a != b]
    assert len(together) > 100
    assert all(a == b for a, b in together)
    assert {"train", "val"} == {a for a, _ in together}
    assert record.facts["splits"]["val"] == len(side) // 4


def test_users_in_two_splits_are_counted(
    world: tuple[Config, pa.Table, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    config, *_ = world
    record = run(labelled(config, eligible="post", scheme="karpathy"))
    chosen = read(config).to_pandas().dropna(subset="split")
    leaked = int((chosen.groupby("user_id")["split"].nunique() > 1).sum())
    assert record.facts["users_on_two_sides"] == leaked > 100
    assert f"{leaked:,} users have posts in two splits" in capsys.readouterr().out
    record = run(labelled(config, eligible="post", scheme="karpathy", split="user", overwrite=True))
    assert record.facts["users_on_two_sides"] == 0
    assert record.facts["users_that_random_leaks"] == leaked
    assert f"a random split would put {leaked:,} users in two" in capsys.readouterr().out


def test_missing_or_uneven_revisits_give_warnings(world: tuple[Config, pa.Table, pa.Table]) -> None:
    config, posts, _ = world
    assert "add a column with their age" in run(labelled(config)).facts["warnings"][0]
    record = run(labelled(config, scheme="karpathy", overwrite=True))
    assert "label.scheme karpathy cannot correct for it" in record.facts["warnings"][0]
    when = posts["created_at"].cast(pa.int64()).to_numpy() + np.arange(N) * 86_400_000_000
    revisited = pa.array(when, pa.timestamp("us", "UTC"))
    column = posts.column_names.index("revisited_at")
    other = load_config(root=f"{config.root}-other")
    put(other, "posts", posts.set_column(column, "revisited_at", revisited))
    (spread,) = run(labelled(other, eligible="post")).facts["warnings"]
    assert re.match(r"likes were read 1\d{3}\.\d days after posting, ± 8\d\d\.\d; add age_days", spread)
    formula = "log10(1 + likes) ~ log10(1 + followers) + age_days"
    run(labelled(other, eligible="post", formula=formula, overwrite=True))
    frame = posts.filter(pc.invert(posts["deleted"])).to_pandas()
    frame["age_days"] = np.arange(N)[~posts["deleted"].to_numpy(zero_copy_only=False)]
    reference = smf.ols("np.log10(1 + likes) ~ np.log10(1 + followers) + age_days", frame).fit()
    assert tables.get_record(other.open_storage(), "labels").facts["warnings"] == []
    np.testing.assert_allclose(list(model_of(other)["params"].values()), reference.params, rtol=1e-8)


def test_revisit_warning_counts_eligible_posts_only(
    world: tuple[Config, pa.Table, pa.Table],
) -> None:
    config, posts, _ = world
    week_later = pc.add(posts["created_at"], pa.scalar(7 * 86_400_000_000, pa.duration("us")))
    column = posts.column_names.index("revisited_at")
    deleted = posts["deleted"].to_numpy(zero_copy_only=False)

    def warnings(name: str, absent: np.ndarray[Any, Any]) -> list[str]:
        other = load_config(root=f"{config.root}-{name}")
        revisited = pc.if_else(pa.array(absent), None, week_later)
        put(other, "posts", posts.set_column(column, "revisited_at", revisited))
        found: list[str] = run(labelled(other, eligible="post")).facts["warnings"]
        return found

    assert warnings("all", np.zeros(N, bool)) == []
    # Deleted posts cannot be revisited and do not take part.
    assert warnings("living", deleted) == []
    absent = deleted | (np.arange(N) < 10)
    n_absent, n = int(np.sum(absent & ~deleted)), int(np.sum(~deleted))
    (said,) = warnings("most", absent)
    assert said.startswith(f"{n_absent} of {n:,} posts have no revisit time")


def test_ties_and_duplicates_in_two_splits_are_counted(
    world: tuple[Config, pa.Table, pa.Table], capsys: pytest.CaptureFixture[str]
) -> None:
    config, _, images = world
    record = run(labelled(config, scheme="quantiles", split="fold", eligible="image"))
    labels = read(config).to_pandas()
    classes = labels.groupby("y")["label"].nunique()
    expected = int(labels["y"].isin(classes[classes > 1].index).sum())
    assert record.facts["posts_decided_by_post_id"] == expected > 10
    sides = labels.merge(images.select(["post_id", "sha256"]).to_pandas(), on="post_id").groupby("sha256")["split"]
    assert record.facts["duplicates_on_two_sides"] == int((sides.nunique() > 1).sum()) > 0
    shown = capsys.readouterr().out
    assert f"{expected:,} posts have the same value as a post of another class" in shown
    assert "pictures are in two splits by fold" in shown


def test_learned_terms_use_all_posts(world: tuple[Config, pa.Table, pa.Table]) -> None:
    config, posts, _ = world
    run(labelled(config, formula="log10(1 + likes) ~ kind + center(n_hashtags)", eligible="post", scheme="continuous"))
    frame = posts.filter(pc.invert(posts["deleted"])).to_pandas()
    reference = smf.ols("np.log10(1 + likes) ~ kind + I(n_hashtags - n_hashtags.mean())", frame).fit()
    assert list(model_of(config)["params"]) == ["Intercept", "kind[T.bee]", "center(n_hashtags)"]
    np.testing.assert_allclose(list(model_of(config)["params"].values()), reference.params, rtol=1e-9)
    labels = read(config)
    assert labels.schema.equals(labels_schema(pa.float64()))
    assert labels["label"].equals(labels["score"])
    assert labels["split"].null_count == 0


@pytest.mark.parametrize(
    ("options", "classes", "y"),
    [
        ({"scheme": "quantiles", "classes": 3}, {"q1", "q2", "q3"}, True),
        ({"scheme": "karpathy", "split": "time"}, {"bottom", "top"}, True),
        ({"scheme": "column", "column": "kind", "split": "fold"}, {"ant", "bee"}, False),
        ({"scheme": "hashtags", "hashtags": ["sun"]}, {"sun", ""}, False),
    ],
)
def test_schemes_without_a_regression(
    world: tuple[Config, pa.Table, pa.Table], options: dict[str, Any], classes: set[str], y: bool
) -> None:
    config, posts, _ = world
    record = run(labelled(config, **options))
    labels, model = read(config), model_of(config)
    assert set(record.facts["labels"]) == classes
    assert record.facts["n_labelled"] == len(labels) == len(labels["split"].drop_null())
    assert labels["score"].null_count == labels["fitted"].null_count == len(labels)
    assert labels["y"].null_count == (0 if y else len(labels))
    assert (model["scheme"], model["formula"]) == (options["scheme"], None)
    assert "params" not in model
    if options["scheme"] == "column":
        given = dict(zip(posts["post_id"].to_pylist(), posts["fold"].to_pylist(), strict=True))
        assert labels["split"].to_pylist() == [given[name] for name in labels["post_id"].to_pylist()]


def test_eligible_post_does_not_need_images(config: Config) -> None:
    posts = made_posts(400)
    put(config, "posts", posts)
    with pytest.raises(StageError, match=r"images: does not exist; run `raypipe ingest"):
        run(labelled(config))
    record = run(labelled(config, eligible="post"))
    assert record.dropped == {"deleted": pc.sum(posts["deleted"]).as_py()}
    assert set(record.inputs) == {"posts"}


def test_missing_values_are_counted_out(config: Config) -> None:
    posts = made_posts(400)
    comments = pa.array(np.arange(400), mask=np.arange(400) % 4 == 0)
    put(config, "posts", posts.set_column(posts.column_names.index("comments"), "comments", comments))
    record = run(labelled(config, eligible="post", formula="log10(1 + likes) ~ log10(comments - 1)"))
    alive = np.flatnonzero(~posts["deleted"].to_numpy(zero_copy_only=False))
    assert record.dropped["missing_value"] == sum(i % 4 == 0 for i in alive)
    assert record.dropped["not_finite"] == sum(i == 1 for i in alive)
    assert record.rows_out == record.facts["nobs"] == 400 - sum(record.dropped.values())


def test_exact_duplicates_stay_in_one_split(world: tuple[Config, pa.Table, pa.Table]) -> None:
    config, _, images = world
    run(labelled(config, scheme="karpathy", eligible="image"))
    labels = read(config).to_pandas().merge(images.select(["post_id", "sha256"]).to_pandas())
    sides = labels.groupby("sha256")["split"].agg(["nunique", "size"])
    assert (sides["size"] > 1).sum() > 20
    assert (sides["nunique"] == 1).all()


def test_result_does_not_depend_on_files_or_order(config: Config, tmp_path: Any) -> None:
    posts = made_posts(1_500)
    other = load_config(root=str(tmp_path / "other"))
    put(config, "posts", posts, parts=1)
    put(other, "posts", posts.take(pa.array(np.random.default_rng(5).permutation(1_500))), parts=7)
    found = []
    for each in (config, other):
        run(labelled(each, eligible="post", seed=3))
        found.append(read(each).sort_by("post_id"))
    assert found[0]["label"].equals(found[1]["label"])
    assert found[0]["split"].equals(found[1]["split"])
    np.testing.assert_allclose(found[0]["score"], found[1]["score"], rtol=1e-9, atol=1e-13)


def test_few_posts_do_not_start_ray(world: tuple[Config, pa.Table, pa.Table]) -> None:
    config, *_ = world
    program = (
        "import sys; from raypipe.cli import main; "
        f"assert main(['label', '--root', {config.root!r}]) == 0; print('ray' in sys.modules)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.split()[-1] == "False", done.stderr


@pytest.mark.parametrize("name", ["age", "comments", "time", "caption"])
def test_outlook_formulas_of_paper_can_be_fitted(config: Config, name: str) -> None:
    rng = np.random.default_rng(3)
    posts = made_posts(800)
    created = posts["created_at"].cast(pa.int64()).to_numpy()
    changed = {
        "created_at": created + rng.integers(0, 10**12, 800),
        "revisited_at": created + 2 * 10**12 + rng.integers(0, 10**11, 800),
        "comments": rng.poisson(3, 800),
        "caption": [f"#selfie {'x' * int(n)}" for n in rng.integers(0, 30, 800)],
    }
    for column, values in changed.items():
        kind = posts.schema.field(column)
        posts = posts.set_column(posts.column_names.index(column), kind, pa.array(values).cast(kind.type))
    put(config, "posts", posts)
    file = Path(__file__).parents[2] / "configs" / f"outlook-{name}.yaml"
    run(load_config(str(file), root=config.root, label={"eligible": "post"}))
    model = model_of(config)
    assert model["cov_type"] == "cluster"
    assert len(model["params"]) > 3
    chosen = read(config).to_pandas().dropna(subset="split")
    assert (chosen.groupby("user_id")["split"].nunique() == 1).all()
