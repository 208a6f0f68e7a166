"""Generated posts: likes follow the formula, distributions are realistic, and the seed decides the world."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.config.data_options import WorldOptions
from raypipe.errors import InputError
from raypipe.tables.schemas import POSTS
from raypipe.world.posts import GeneratedPosts, RandomStream, generate_posts, random_generator

N = 40_000


@pytest.fixture(scope="module")
def posts() -> GeneratedPosts:
    return generate_posts(WorldOptions(posts=N), seed=11)


def test_likes_follow_formula_in_whole_numbers(posts: GeneratedPosts) -> None:
    options = WorldOptions()
    log_likes = (
        options.intercept
        + options.followers * np.log10(1 + posts.followers)
        + options.hashtags * posts.n_hashtags
        + options.effect * posts.look
        + posts.noise
    )
    assert posts.likes.tolist() == [max(0, round(10**y - 1)) for y in log_likes.tolist()]


def test_least_squares_finds_the_planted_coefficients(posts: GeneratedPosts) -> None:
    options = WorldOptions()
    terms = sm.add_constant(np.column_stack([np.log10(1 + posts.followers), posts.n_hashtags]))
    fit = sm.OLS(np.log10(1 + posts.likes), terms).fit()
    planted = np.array([options.intercept, options.followers, options.hashtags])
    assert np.all(np.abs(fit.params - planted) < 4 * fit.bse)
    assert np.sqrt(fit.mse_resid) == pytest.approx(np.hypot(options.effect, options.noise), rel=0.02)


def test_few_posts_have_zero_likes(posts: GeneratedPosts) -> None:
    assert np.mean(posts.likes == 0) < 0.005
    assert 30 <= np.median(posts.likes) <= 60


def test_distributions_resemble_ordinary_users(posts: GeneratedPosts) -> None:
    assert 200 <= np.median(posts.followers) <= 500
    assert posts.followers.mean() > 3 * np.median(posts.followers), "no heavy tail"
    assert posts.followers.max() > 100_000
    assert posts.n_hashtags.min() == 1
    assert posts.n_hashtags.max() == 30
    assert np.median(posts.comments) <= 3 < posts.comments.max() / 20


def test_look_and_noise_are_independent_normals(posts: GeneratedPosts) -> None:
    for values, sd in ((posts.look, 1.0), (posts.noise, 0.3), (posts.visual, 0.3)):
        assert abs(values.mean()) < 5 * sd / np.sqrt(N)
        assert values.std() == pytest.approx(sd, rel=0.03)
    assert abs(np.corrcoef(posts.look, posts.noise)[0, 1]) < 5 / np.sqrt(N)
    assert abs(np.corrcoef(posts.look, np.log10(1 + posts.followers))[0, 1]) < 5 / np.sqrt(N)


def test_user_and_comment_shares_match_paper(posts: GeneratedPosts) -> None:
    present = ~posts.deleted
    assert len(np.unique(posts.users[present])) == posts.counts.users
    assert posts.comments[present].sum() == posts.counts.comments
    many = np.bincount(posts.users)
    assert many.max() >= 5, "nobody posts often"
    followers_of_user = pd.DataFrame({"user": posts.users, "followers": posts.followers}).groupby("user")
    assert (followers_of_user["followers"].nunique() == 1).all()


def test_times_cover_week_and_revisit_of_paper(posts: GeneratedPosts) -> None:
    table = posts.table(0, N)
    created = table["created_at"].to_pandas()
    collected, revisited = table["collected_at"].to_pandas(), table["revisited_at"].to_pandas()
    assert created.min() >= pd.Timestamp("2016-11-08", tz="UTC")
    assert created.max() < pd.Timestamp("2016-11-15", tz="UTC")
    assert created.is_monotonic_increasing
    assert (collected >= created).all()
    assert ((collected - created) <= pd.Timedelta("1h")).all()
    assert (revisited - collected == pd.Timedelta("7D")).all()


def test_table_matches_schema(posts: GeneratedPosts) -> None:
    table = posts.table(0, N)
    table.validate(full=True)
    assert table.schema == POSTS
    assert pc.count_distinct(table["post_id"]).as_py() == N
    assert table["post_id"].to_pylist() == sorted(table["post_id"].to_pylist())
    assert pc.sum(table["deleted"]).as_py() == posts.counts.deleted
    assert table["image_url"][0].as_py() == f"http://127.0.0.1:8471/p/{table['post_id'][0]}.jpg"
    hashtags = [caption.count("#") for caption in table["caption"].to_pylist()]
    assert hashtags == table["n_hashtags"].to_pylist()
    assert all("#selfie" in caption for caption in table["caption"].to_pylist())


@settings(max_examples=15)
@given(st.lists(st.integers(0, 300), max_size=6))
def test_rows_do_not_depend_on_slices(cuts: list[int]) -> None:
    posts = generate_posts(WorldOptions(posts=300), seed=4)
    bounds = sorted({0, 300, *cuts})
    pieces = [posts.table(low, high) for low, high in itertools.pairwise(bounds)]
    assert pa.concat_tables(pieces).equals(posts.table(0, 300))


def test_seed_determines_the_world() -> None:
    options = WorldOptions(posts=200)
    assert generate_posts(options, 5).table(0, 200).equals(generate_posts(options, 5).table(0, 200))
    assert not generate_posts(options, 5).table(0, 200).equals(generate_posts(options, 6).table(0, 200))


def test_coefficients_change_only_likes() -> None:
    weak = generate_posts(WorldOptions(posts=200, effect=0.1), 5)
    strong = generate_posts(WorldOptions(posts=200, effect=0.5), 5)
    assert np.array_equal(weak.look, strong.look)
    assert np.array_equal(weak.followers, strong.followers)
    assert np.allclose(5 * weak.visual, strong.visual)


def test_random_streams_are_independent() -> None:
    first = {purpose: random_generator(0, purpose).random() for purpose in RandomStream}
    assert len(set(first.values())) == len(RandomStream)
    assert (
        random_generator(0, RandomStream.PICTURES, 1).random() != random_generator(0, RandomStream.PICTURES, 2).random()
    )


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_smallest_worlds_are_valid(n: int) -> None:
    table = generate_posts(WorldOptions(posts=n), 0).table(0, n)
    table.validate(full=True)
    assert table.num_rows == n


def test_absurd_coefficients_raise_error() -> None:
    with pytest.raises(InputError, match=r"world.intercept.*10\^1\d\d likes"):
        generate_posts(WorldOptions(posts=50, intercept=100.0), 0)


def test_distributions_resemble_real_feed(shared_data: Path, posts: GeneratedPosts) -> None:
    """Real accounts are larger, but residual spread and skewness of counts are similar."""
    real = pd.read_csv(shared_data / "engagement.csv")

    def spread(likes: np.ndarray, followers: np.ndarray, hashtags: np.ndarray) -> float:
        terms = sm.add_constant(np.column_stack([np.log10(1 + followers), hashtags]))
        return float(np.sqrt(sm.OLS(np.log10(1 + likes), terms).fit().mse_resid))

    theirs = spread(real.likes.to_numpy(), real.followers.to_numpy(), real.n_hashtags.to_numpy())
    ours = spread(posts.likes, posts.followers, posts.n_hashtags)
    assert 0.5 < ours / theirs < 2
    for ours_counts, theirs_counts in ((posts.comments, real.comments), (posts.likes, real.likes)):
        ratio = [np.quantile(counts, 0.99) / np.quantile(counts, 0.5) for counts in (ours_counts, theirs_counts)]
        assert 0.1 < ratio[0] / ratio[1] < 10
