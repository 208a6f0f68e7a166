"""A sweep's space of hyperparameters: which values it accepts and which combinations it gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.config.load import load_config, parse_arguments
from raypipe.config.search_space import combinations, text_of
from raypipe.errors import ConfigError

RATE = {"loguniform": ["1e-4", 0.01]}


def test_list_is_expanded_to_grid() -> None:
    assert combinations({"a": [1, 2], "b": [True, False]}, "A", 1, 0) == [
        {"a": 1, "b": True}, {"a": 1, "b": False}, {"a": 2, "b": True}, {"a": 2, "b": False},
    ]  # fmt: skip
    assert combinations({"a": 3}, "A", 1, 0) == [{"a": 3}]
    assert combinations({}, "A", 1, 0) == [{}]


def test_grid_points_of_one_sample_share_draws() -> None:
    found = combinations({"rate": RATE, "batch": [16, 32]}, "A", 3, 7)
    assert [row["batch"] for row in found] == [16, 32] * 3
    assert [row["rate"] for row in found[::2]] == [row["rate"] for row in found[1::2]]
    assert len({row["rate"] for row in found}) == 3


def test_space_may_differ_per_configuration() -> None:
    space = {"rate": {"A": [0.1, 0.2], "D": {"uniform": [0, 1]}}}
    assert combinations(space, "A", 2, 0) == [{"rate": 0.1}, {"rate": 0.2}]
    assert combinations(space, "B", 2, 0) == [{}]
    assert len(combinations(space, "D", 2, 0)) == 2


def test_equal_draws_are_deduplicated() -> None:
    assert len(combinations({"n": {"integers": [1, 2]}}, "A", 50, 0)) == 2


@pytest.mark.parametrize(
    ("spec", "low", "high", "whole"),
    [
        ({"uniform": [-2, 3]}, -2, 3, False),
        ({"loguniform": [1e-4, 1e-2]}, 1e-4, 1e-2, False),
        ({"integers": [1, 4]}, 1, 4, True),
        ({"beta": {"a": 2, "b": 3}}, 0, 1, False),
        ({"randint": {"low": 3, "high": 9}}, 3, 8, True),
    ],
)
@given(seed=st.integers(0, 2**31))
def test_draws_stay_in_limits_and_round_trip_as_text(
    spec: dict[str, Any], low: float, high: float, whole: bool, seed: int
) -> None:
    for row in combinations({"x": spec}, "A", 5, seed):
        assert low <= row["x"] <= high
        assert float(text_of(row["x"])) == row["x"]
        assert not whole or isinstance(row["x"], int)


def test_distributions_have_their_shape() -> None:
    draws = [row["x"] for row in combinations({"x": {"loguniform": [1e-4, 1e-2]}}, "A", 2000, 1)]
    assert 0.46 < sum(x < 1e-3 for x in draws) / len(draws) < 0.54
    normal = [row["x"] for row in combinations({"x": {"normal": [5, 2]}}, "A", 2000, 1)]
    assert 0.64 < sum(3 < x < 7 for x in normal) / len(normal) < 0.72
    chosen = [row["x"] for row in combinations({"x": {"choice": [1, 2, 3]}, "y": {"uniform": [0, 1]}}, "A", 900, 1)]
    assert all(250 < chosen.count(value) < 350 for value in (1, 2, 3))


@given(seed=st.integers(0, 1000), few=st.integers(1, 5), more=st.integers(0, 5))
def test_more_samples_or_options_keep_earlier_draws(seed: int, few: int, more: int) -> None:
    before = combinations({"rate": RATE}, "A", few, seed)
    assert combinations({"rate": RATE}, "A", few + more, seed)[:few] == before
    after = combinations({"decay": {"uniform": [0, 1]}, "rate": RATE}, "A", few, seed)
    assert [row["rate"] for row in after] == [row["rate"] for row in before]


@pytest.mark.parametrize(
    ("value", "text"), [(0.001, "0.001"), (1e-05, "1e-05"), (16, "16"), (True, "true"), (None, "none"), ("he", "he")]
)
def test_values_are_shown_as_typed(value: Any, text: str) -> None:
    assert text_of(value) == text


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"learning_rat": [1]},
            "learning_rat is not an option of train that can vary in a sweep; did you mean learning_rate?",
        ),
        ({"image_size": [32, 64]}, "image_size is not an option of train that can vary in a sweep"),
        ({"workers": [1, 2]}, "workers is not an option of train that can vary in a sweep"),
        ({"batch_size": [16, 0]}, "batch_size cannot be 0: input should be greater than or equal to 1"),
        ({"batch_size": []}, "batch_size: the list is empty"),
        ({"batch_size": [{"A": 16}]}, "batch_size: {'A': 16} cannot be a value; write {A: "),
        ({"learning_rate": {"loguniform": [0, 1]}}, "{loguniform: [0, 1]} must be [low, high] of numbers with 0 < low"),
        ({"learning_rate": {"loguniform": [1]}}, "{loguniform: [1]} must be [low, high] of numbers"),
        ({"learning_rate": {"uniform": ["a", 1]}}, "learning_rate: 'a' is not a number"),
        ({"learning_rate": {"gaussian": [0, 1]}}, "{gaussian: [0, 1]} is none of {choice: [a, b, …]}, {uniform: "),
        ({"learning_rate": {"gaussian": {"a": 1}}}, "gaussian is not a distribution; use choice, uniform, "),
        ({"learning_rate": {"lognorm": {"q": 1}}}, "lognorm does not accept {'q': 1.0} (see scipy.stats.lognorm)"),
        ({"learning_rate": {"A": [0.1], "X": [1]}}, "must name one distribution"),
        ({"epochs": {"integers": [1, 2.5]}}, "must be [low, high] of numbers that are whole"),
    ],
)
def test_invalid_space_raises_one_line_error(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(sweep={"space": space})
    assert str(error.value).startswith("sweep.space: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_command_line_accepts_space_as_yaml() -> None:
    words = ["--sweep.space", "{learning_rate: {loguniform: [1e-4, 1e-2]}, batch_size: [16, 32]}", "--sweep.samples=3"]
    config = load_config(overrides=parse_arguments(words))
    assert len(combinations(config.sweep.space, "A", config.sweep.samples, 0)) == 6


def test_samples_and_asha_are_refused_without_suitable_space() -> None:
    with pytest.raises(ConfigError, match=r"^sweep.samples: 3 is not allowed: more than 1 needs a distribution"):
        load_config(sweep={"samples": 3, "space": {"batch_size": [16, 32]}})
    with pytest.raises(
        ConfigError, match=r"^sweep.rivals: 'configuration' is not allowed: without sweep.space .*--sweep.rivals all$"
    ):
        load_config(sweep={"scheduler": "asha"})
    assert load_config(sweep={"scheduler": "asha", "rivals": "all"}).sweep.reduction == 3
