"""Mistakes that `label` refuses: one line each, and nothing is written."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from raypipe.config import Config
from raypipe.errors import InputError, RaypipeError
from raypipe.label.pipeline import run
from raypipe.tables.schemas import IMAGES, POSTS
from tests.label.roots import labelled, made_images, made_posts, put


def test_split_by_time_needs_times(config: Config) -> None:
    posts = made_posts(400)
    times = pa.array([*posts["created_at"].to_pylist()[:-2], None, None], pa.timestamp("us", "UTC"))
    put(config, "posts", posts.set_column(posts.column_names.index("created_at"), "created_at", times))
    given = {"eligible": "post", "scheme": "karpathy", "split": "time"}
    missing = 2 - sum(posts["deleted"].to_pylist()[-2:])
    with pytest.raises(InputError, match=rf"label.split time: {missing} labelled posts have no created_at"):
        run(labelled(config, **given))
    assert not config.open_storage().exists("labels")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formula": "likes ~ folowers"}, "label.formula: posts/ has no column 'folowers'"),
        ({"formula": "likes ~ (followers"}, "cannot be read: Could not find matching context marker"),
        ({"formula": "likes ~ log10(kind)"}, "column 'kind' contains string, but log10(kind) needs a number"),
        ({"formula": "likes ~ text"}, "column 'text' has"),
        ({"formula": "likes ~ created_at"}, "column 'created_at' of posts/ contains timestamp"),
        ({"formula": "likes ~ np.exp(followers)"}, "np.exp(followers) is too large to compute with"),
        ({"formula": "likes ~ cr(followers, df=4)"}, "add constraints='center' to the spline"),
        ({"formula": "log10(followers - 10**9) ~ n_hashtags"}, "(left out: "),
        ({"split": "tags"}, "label.split tags: this column of posts/ has list"),
        ({"scheme": "column", "column": "tags"}, "label.column tags: this column of posts/ has list"),
        ({"formula": "likes ~ log10(1 + constant)"}, "log10(1 + constant) is collinear with Intercept"),
        ({"scheme": "column", "column": "one"}, "eligible posts have the label 'same'; training needs two classes"),
        ({"scheme": "column", "column": "nope"}, "label.column: posts/ has no column 'nope'"),
        ({"scheme": "column"}, "label.column: is missing"),
        ({"split": "folds"}, "label.split: posts/ has no column 'folds'"),
        ({"split": "kind"}, "label.split kind: this column of posts/ has 'ant', 'bee' for labelled posts"),
        ({"quantile": 0.0001}, "label.quantile 0.0001: 0.0001 of 1"),
        ({"weights": "text"}, "label.weights: column 'text' of posts/ has string, but weights must be numbers"),
        ({"weights": "nope"}, "label.weights: posts/ has no column 'nope'"),
        ({"scheme": "quantiles", "classes": 9999}, "label.classes 9999: only 1"),
        ({"val": 0.8, "test": 0.2}, "leave no posts to train on"),
        ({"formula": "likes ~ likes"}, "the terms explain y in all"),
        ({"formula": "constant ~ followers"}, "y is the same in all"),
        ({"scheme": "column", "column": "post_id"}, "label.column post_id: has 1,"),
    ],
)
def test_mistake_gives_one_line_and_writes_nothing(
    world: tuple[Config, pa.Table, pa.Table], options: dict[str, Any], message: str
) -> None:
    config, *_ = world
    with pytest.raises(RaypipeError) as caught:
        run(labelled(config, **options))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not config.open_storage().exists("labels")


@pytest.mark.parametrize(
    ("n", "faces", "message"),
    [
        (0, 1, "posts: has no posts"),
        (30, 0, "label.eligible one_face: none of 30 posts takes part"),
        (30, None, "run ingest with --faces.enabled true"),
        (3, 1, "3 usable posts for 3 terms (Intercept, log10(1 + followers), n_hashtags)"),
    ],
)
def test_too_few_posts_raise_error(config: Config, n: int, faces: int | None, message: str) -> None:
    posts = made_posts(max(n, 2)).slice(0, n)
    posts = posts.set_column(
        posts.column_names.index("deleted"), POSTS.field("deleted"), [pa.array([False] * n, pa.bool_())]
    )
    images = made_images(posts)
    images = images.set_column(images.column_names.index("n_faces"), "n_faces", [pa.array([faces] * n, pa.int32())])
    images = images.set_column(
        images.column_names.index("status"), IMAGES.field("status"), [pa.array(["ok"] * n, pa.string())]
    )
    put(config, "posts", posts, parts=1)
    put(config, "images", images, parts=1)
    with pytest.raises(InputError) as caught:
        run(labelled(config))
    assert message in str(caught.value)
    assert not config.open_storage().exists("labels")
