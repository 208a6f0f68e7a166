"""What a trial is, and the pictures of a split."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.config import Config
from raypipe.train.pipeline import prepare_pictures
from raypipe.train.plan import Trial, for_configuration
from tests.training_root import SPLITS


def test_a_trial_is_named_by_configuration_and_seed() -> None:
    assert Trial("C", 3).name == "C-3"


def test_a_number_may_be_given_for_each_configuration() -> None:
    assert for_configuration(0.1, "A") == 0.1
    assert for_configuration({"A": 1, "B": 2}, "B") == 2


@pytest.mark.usefixtures("ray_session")
def test_pictures_come_by_split_in_the_order_of_their_posts(training: Config) -> None:
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
