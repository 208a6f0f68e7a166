"""Trials and their names, and the pictures of a split."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.config import Config
from raypipe.config.learning_options import TrainOptions
from raypipe.config.load import load_config
from raypipe.errors import ConfigError
from raypipe.train.decode import prepare_pictures
from raypipe.train.trial_plan import Trial, sweep_trials, value_for_configuration
from tests.training_root import SPLITS


def test_a_trial_is_named_by_configuration_and_seed() -> None:
    assert Trial("C", 3).name == "C-3"


def test_trial_names_include_own_options() -> None:
    trial = Trial("B", 2, "modern", (("batch_size", 16), ("learning_rate", 1e-05)))
    assert trial.label == "B modern batch_size=16 learning_rate=1e-05"
    assert trial.name == "B-modern-batch_size-16-learning_rate-1e-05-2"
    train = load_config(train={"batch_size": 32, "dtype": "float32"}).train
    own = trial.options(train)
    assert (own.batch_size, own.learning_rate, own.dtype, train.batch_size) == (16, 1e-05, "float32", 32)


def test_sweep_has_all_forms_configurations_combinations_and_seeds() -> None:
    space = {"learning_rate": [0.001, "3e-3"], "batch_size": {"D": [16]}}
    config = load_config(seed=5, sweep={"configs": "A,D", "seeds": 2, "forms": "paper,modern", "space": space})
    trials = sweep_trials(config)
    assert len(trials) == len({trial.name for trial in trials}) == 2 * 2 * 2 * 2
    assert [trial.name for trial in trials[:3]] == [
        "A-learning_rate-0.001-5",
        "A-learning_rate-0.001-6",
        "A-learning_rate-0.003-5",
    ]
    assert {trial.label for trial in trials if trial.configuration == "D" and trial.form == "paper"} == {
        "D batch_size=16 learning_rate=0.001", "D batch_size=16 learning_rate=0.003",
    }  # fmt: skip
    plain = load_config(sweep={"configs": "A,B", "seeds": 2})
    assert [trial.name for trial in sweep_trials(plain)] == ["A-0", "A-1", "B-0", "B-1"]


def test_order_of_space_does_not_change_names() -> None:
    one = {"learning_rate": {"loguniform": [1e-4, 1e-2]}, "batch_size": [16, 32]}
    other = dict(reversed(one.items()))
    names = [
        {trial.name for trial in sweep_trials(load_config(sweep={"configs": "A", "space": space, "samples": 3}))}
        for space in (one, other)
    ]
    assert names[0] == names[1]
    assert len(names[0]) == 6


def test_invalid_draw_raises_error() -> None:
    config = load_config(sweep={"space": {"batch_size": {"uniform": [0.2, 0.9]}}})
    with pytest.raises(ConfigError, match=r"sweep.space: batch_size cannot be 0\.\d+: input should be a valid integer"):
        sweep_trials(config)


def test_number_may_differ_per_configuration() -> None:
    assert value_for_configuration(0.1, "A") == 0.1
    assert value_for_configuration({"A": 1, "B": 2}, "B") == 2
    assert value_for_configuration({"A": 1}, "B") is None
    assert TrainOptions(epochs={"A": 3}).epochs == {"A": 3, "B": 9, "C": 8, "D": 20}


@pytest.mark.usefixtures("ray_session")
def test_pictures_are_in_post_order_per_split(training: Config) -> None:
    pictures = prepare_pictures(training)
    for split in ("train", "val", "test"):
        found = pictures.load(split)
        wanted = [f"p{i:03d}" for i, name in enumerate(SPLITS) if name == split]
        assert found.post_ids.tolist() == wanted
        assert found.labels.tolist() == [int(post_id[1:]) % 2 for post_id in wanted]
        assert found.images.shape == (len(wanted), 3, 32, 32)
        bright = found.images[:].float().mean(dim=(1, 2, 3)).numpy()
        np.testing.assert_array_equal(bright > 128, found.labels.numpy() == 1)


@pytest.mark.usefixtures("ray_session")
def test_a_split_without_pictures_is_empty(training: Config) -> None:
    empty = prepare_pictures(training).load("none")
    assert len(empty) == 0
    assert empty.images.shape == (0, 3, 32, 32)
