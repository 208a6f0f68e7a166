"""Hardware for each trial, and the number of parallel trials."""

from __future__ import annotations

import pytest

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import ConfigError
from raypipe.train.trial_plan import Trial
from raypipe.train.trials.allocation import Hardware, Node, allocate


def trials(letters: str) -> list[Trial]:
    return [Trial(letter, seed) for seed, letter in enumerate(letters)]


def options(concurrent: int | None = None, share: object = None, **train: object) -> Config:
    sweep = {"concurrent": concurrent, **({} if share is None else {"gpu_share": share})}
    return load_config(train=train, sweep=sweep)


@pytest.mark.parametrize(
    ("letters", "gpus", "share", "concurrent"),
    [
        ("ABCD", 1, None, 1),
        ("ABCD", 4, None, 4),
        ("ABCD", 3, None, 3),
        ("BCD", 2, None, 2),
        ("AAAAAA", 1, None, 2),
        ("AAAAAA", 2, {"A": 0.25}, 6),
        ("AAAAAABC", 2, {"A": 0.25}, 6),
        ("AAABB", 2, {"A": 0.25}, 4),
        ("AAABB", 1, 0.1, 5),
        ("A", 8, None, 1),
    ],
)
def test_gpus_limit_concurrent_trials(letters: str, gpus: int, share: object, concurrent: int) -> None:
    found = allocate(options(share=share), trials(letters), [Node(16, gpus)])
    assert found.concurrent == concurrent
    shares = sorted(each.gpus_per_worker for each in found.hardware.values())
    assert sum(shares[:concurrent]) <= gpus + 1e-9


def test_only_configuration_a_shares_a_gpu() -> None:
    found = allocate(options(), trials("ABD"), [Node(16, 2)])
    assert found.hardware == {
        "A-0": Hardware(1, True, 4, 0.5),
        "B-1": Hardware(1, True, 8, 1.0),
        "D-2": Hardware(1, True, 8, 1.0),
    }
    (alone,) = allocate(options(), trials("A"), [Node(16, 2)]).hardware.values()
    assert alone.gpus_per_worker == 1.0


def test_workers_of_one_trial_have_a_gpu_each() -> None:
    found = allocate(options(workers=2), trials("AAC"), [Node(16, 4)])
    assert {each.gpus_per_worker for each in found.hardware.values()} == {1.0}
    assert found.concurrent == 2


def test_cpus_are_divided_without_gpu() -> None:
    assert allocate(options(), trials("AB"), [Node(8, 0)]).hardware["A-0"] == Hardware(1, False, 8)
    found = allocate(options(concurrent=2, workers=2), trials("AB"), [Node(8, 0)])
    assert (found.concurrent, found.hardware["B-1"]) == (2, Hardware(2, False, 2))
    assert allocate(options(concurrent=4), trials("AB"), [Node(2, 0)]).hardware["A-0"].cpus_per_worker == 1
    assert allocate(options(gpu=False), trials("AB"), [Node(8, 8)]).hardware["A-0"].gpu is False


@pytest.mark.parametrize(
    ("train", "gpus", "message"),
    [
        (
            {"workers": 4},
            2,
            r"train.workers: 4 workers of a trial need one GPU each, but there are 2; lower train.workers, ",
        ),
        (
            {"workers": 9, "gpu": False},
            0,
            r"9 workers of a trial need one CPU each, but there are 8; lower train.workers$",
        ),
        (
            {"gpu": True},
            0,
            r"train.workers: a trial needs a GPU, but there are 0; set --train.gpu false, or, if GPU nodes",
        ),
    ],
)
def test_too_many_workers_raise_error(train: dict[str, object], gpus: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        allocate(options(**train), trials("AB"), [Node(8, gpus)])
    with pytest.raises(ConfigError, match=message):
        allocate(options(concurrent=2, **train), trials("AB"), [Node(8, gpus)])


def test_growing_cluster_is_used_if_concurrent_is_given() -> None:
    with pytest.raises(ConfigError, match="there are 0"):
        allocate(options(gpu=True), trials("AB"), [Node(8, 0)], is_autoscaling=True)
    found = allocate(options(concurrent=3, gpu=True), trials("ABCD"), [Node(8, 0)], is_autoscaling=True)
    assert found.concurrent == 3
    assert found.hardware["B-1"].gpu


@pytest.mark.parametrize("share", [0, 1.5, {"A": -1}])
def test_gpu_share_must_be_between_0_and_1(share: object) -> None:
    with pytest.raises(
        ConfigError, match=r"^sweep.gpu_share: .* is not allowed: a share of a GPU must be above 0 and at"
    ):
        options(share=share)


@pytest.mark.parametrize(
    ("cpus", "workers", "each"),
    [([8, 8, 8], 1, 8), ([8, 8, 8], 3, 8), ([8, 8, 8], 4, 4), ([2, 16], 2, 8), ([2, 16], 1, 16), ([0, 1, 1], 2, 1)],
)
def test_worker_fits_on_one_node(cpus: list[int], workers: int, each: int) -> None:
    found = allocate(options(workers=workers), trials("B"), [Node(n) for n in cpus])
    assert found.hardware["B-0"] == Hardware(workers, False, each)
    assert sum(n // each for n in cpus) >= workers


def test_smallest_gpu_node_decides_cpus_per_gpu() -> None:
    nodes = [Node(32), Node(4, 1), Node(64, 4)]
    assert allocate(options(), trials("BC"), nodes).hardware["B-0"].cpus_per_worker == 4
