"""When one process is enough for predicting, and how many threads it uses."""

from __future__ import annotations

import sys

import pytest
import torch

from raypipe.config.load import load_config
from raypipe.predict.local import can_run_locally, torch_thread_count, torch_threads


@pytest.mark.parametrize(
    ("options", "enough"),
    [({}, True), ({"ray": {"dashboard": False}}, True), ({"ray": {"dashboard": True}}, False)],
)
def test_one_process_is_used_for_few_pictures(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, dict[str, object]], enough: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    config = load_config(**options, train={"gpu": False})
    assert can_run_locally(config) == enough
    assert can_run_locally(load_config(**options)) == (enough and not torch.cuda.is_available())
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert not can_run_locally(config)


@pytest.mark.usefixtures("ray_session")
def test_running_ray_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not can_run_locally(load_config(train={"gpu": False}))


def test_thread_count_is_limited_then_restored() -> None:
    before = torch.get_num_threads()
    assert torch_thread_count(load_config()) == before
    with torch_threads(torch_thread_count(load_config(ray={"num_cpus": 3}))):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
