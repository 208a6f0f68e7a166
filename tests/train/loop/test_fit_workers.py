"""Two and three worker processes on loopback give the results of one."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from raypipe.errors import StageError
from raypipe.train.data.images import prepare_batch
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.loop.fit import fit
from raypipe.train.loop.recipe import MODERN
from raypipe.train.loop.state import EpochResult, LoopOptions, LoopState
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.heads import make_head
from raypipe.train.networks.initial_weights import unit_variance_init
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights
from tests.train.small import TARGETS, Tiny, draw, draw_labelled

# In float64, another order of sums changes weights by 1e-16 of the terms and never moves a unit across 0 or another
# pixel to the maximum. Outputs, losses, their derivatives and probabilities are float32, each within 2^-23. Errors of a
# few steps accumulate, so six more bits are allowed.
CLOSE = 2.0**-17
# Features of frozen convolutions are float32. Each of 13 layers rounds up to 4,608 terms, which add up like a random
# walk. Training on them has no unit that could move across 0.
CLOSE_ON_FEATURES = 13 * 4608**0.5 * 2.0**-23
OPTIONS = LoopOptions(epochs=3, batch_size=16, learning_rate=0.05, seed=7)


def in_double(model: nn.Module) -> nn.Module:
    """Give `model` float64 weights and activations, in place.

    Workers sum in another order than a single process. In float32, rounding moves units across 0 and changes which
    pixel is largest, more at each step. The difference of probabilities then depends on the processor.
    """
    for child in model.double().children():
        child.register_forward_pre_hook(lambda _, inputs: tuple(given.double() for given in inputs))
    return model


def rows(results: list[EpochResult]) -> list[dict[str, Any]]:
    names = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_probabilities")
    return [{name: getattr(result, name) for name in names} for result in results]


def tiny_run(group: Any, n: int, seed: int = 0) -> dict[str, Any]:
    """D with momentum on `n` training pictures. The last batch has the remaining pictures."""
    model = in_double(Tiny(seed))
    results = fit(model, CONFIGURATIONS["D"], draw(n, 0), draw(31, 1), OPTIONS, preprocessing=TORCHVISION, group=group)
    return {"rows": rows(results), "model": model.state_dict()}


def head_run(group: Any, kind: str) -> dict[str, Any]:
    """Another head. The second worker has no picture of the last batch and not the one validation picture."""
    target = TARGETS[kind]
    train, val = draw_labelled(target, 65, 0), draw_labelled(target, 1, 1)
    model, head = in_double(Tiny(n_outputs=target.n_outputs)), make_head(target, train.labels)
    options = replace(OPTIONS, learning_rate=0.01)
    results = fit(model, CONFIGURATIONS["D"], train, val, options, preprocessing=TORCHVISION, head=head, group=group)
    return {"rows": rows(results), "model": model.state_dict()}


def cached_run(group: Any) -> dict[str, Any]:
    """A on features that the workers compute together."""
    train, val = draw(13, 0, size=32), draw(5, 1, size=32)
    model = build_vgg(CONFIGURATIONS["A"], image_size=32, weights=load_weights("random"), seed=0)
    unit_variance_init(model, prepare_batch(train.images, TORCHVISION))
    options = replace(OPTIONS, batch_size=4, learning_rate=0.01)
    results = fit(model, CONFIGURATIONS["A"], train, val, options, preprocessing=TORCHVISION, group=group)
    return {"rows": rows(results), "model": {"logit.weight": model.logit.weight.detach()}}


def modern_run(group: Any, n: int = 70) -> dict[str, Any]:
    """The modern form. Its crops, rates and averaged weights must not depend on the workers."""
    model, options = in_double(Tiny()), replace(OPTIONS, recipe=MODERN, learning_rate=0.01)
    sets, d = (draw(n, 0), draw(31, 1)), CONFIGURATIONS["D"]
    results = fit(model, d, *sets, options, preprocessing=TORCHVISION, group=group)
    return {"rows": rows(results), "model": model.state_dict()}


def end_to_end_run(group: Any) -> dict[str, Any]:
    """B, which trains all of VGG-16. The second worker has no picture of the last batch."""
    train, val = draw(5, 0, size=32), draw(3, 1, size=32)
    model = build_vgg(CONFIGURATIONS["B"], image_size=32, weights=load_weights("random"), seed=0)
    unit_variance_init(model, prepare_batch(train.images, TORCHVISION))
    in_double(model)
    options = replace(OPTIONS, epochs=2, batch_size=4, learning_rate=0.00002)
    results = fit(model, CONFIGURATIONS["B"], train, val, options, preprocessing=TORCHVISION, group=group)
    return {"rows": rows(results), "model": {"logit.weight": model.logit.weight.detach()}}


def resumed_run(group: Any, folder: str) -> dict[str, Any]:
    """Interrupted after the first epoch. All workers resume from the state that the first one saved."""
    d, sets, path = CONFIGURATIONS["D"], (draw(70, 0), draw(31, 1)), Path(folder) / "state"
    rank = dist.get_rank(group) if group is not None else 0

    def interrupt(_: EpochResult, state: LoopState) -> bool:
        if rank == 0:
            state.save(path)
        return True

    before = fit(in_double(Tiny()), d, *sets, OPTIONS, preprocessing=TORCHVISION, group=group, on_epoch=interrupt)
    start, model = LoopState.load(path), in_double(Tiny(seed=99))
    after = fit(model, d, *sets, OPTIONS, preprocessing=TORCHVISION, group=group, start=start)
    return {"rows": rows([*before, *after]), "model": model.state_dict()}


def stopped_run(group: Any, rank: int) -> int:
    """The number of epochs if only the second worker asks to stop, after the second epoch."""
    stop = lambda result, _: rank == 1 and result.epoch == 2  # noqa: E731
    sets, name = (draw(20, 0), draw(5, 1)), "B"
    return len(fit(Tiny(), CONFIGURATIONS[name], *sets, OPTIONS, preprocessing=TORCHVISION, group=group, on_epoch=stop))


def diverged_run(group: Any) -> str:
    options = replace(OPTIONS, learning_rate=1e30)
    try:
        fit(Tiny(), CONFIGURATIONS["B"], draw(20, 0), draw(5, 1), options, preprocessing=TORCHVISION, group=group)
    except StageError as error:
        return str(error)
    return "no error"


def join(rank: int, folder: str, size: int) -> Any:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/rendezvous", size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=120))
    return dist.group.WORLD


def work(rank: int, folder: str) -> None:
    group = join(rank, folder, 2)
    found = {
        "even": tiny_run(group, 64),
        "partial": tiny_run(group, 70),
        # The last batch has one picture, so the second worker has none.
        "one_left": tiny_run(group, 65),
        # All workers start from the first worker's weights.
        "unlike": tiny_run(group, 70, seed=rank),
        "cached": cached_run(group),
        "modern": modern_run(group),
        "end_to_end": end_to_end_run(group),
        "resumed": resumed_run(group, folder),
        **{kind: head_run(group, kind) for kind in ("classes", "tags", "score")},
        "stopped": stopped_run(group, rank),
        "diverged": diverged_run(group),
    }
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


def work_of_three(rank: int, folder: str) -> None:
    group = join(rank, folder, 3)
    # The last batch has two pictures, so the third worker has none.
    found = {
        "two_left": tiny_run(group, 66),
        "cached": cached_run(group),
        "tags": head_run(group, "tags"),
        "modern": modern_run(group, 66),
    }
    torch.save(found, f"{folder}/{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As many threads as the workers use. The initial float32 weights depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of three workers."""
    folder = tmp_path_factory.mktemp("three")
    mp.spawn(work_of_three, args=(str(folder),), nprocs=3)
    return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(3)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two workers."""
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(2)]


def same(ours: dict[str, Any], theirs: dict[str, Any], close: float = CLOSE) -> None:
    assert len(ours["rows"]) == len(theirs["rows"])
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        for name in ("epoch", "train_accuracy", "val_accuracy"):
            # Accuracies of tags are sums of thirds, whose last bit depends on the order.
            assert mine[name] == other[name] or mine[name] == pytest.approx(other[name], rel=1e-6), name
        for name in ("train_loss", "val_loss", "val_probabilities"):
            np.testing.assert_allclose(mine[name], other[name], rtol=close, err_msg=name)
    for name, value in ours["model"].items():
        scale = float(value.abs().max())
        torch.testing.assert_close(value, theirs["model"][name], rtol=0, atol=close * scale)


@pytest.mark.parametrize(("case", "n"), [("even", 64), ("partial", 70), ("one_left", 65), ("unlike", 70)])
def test_two_workers_equal_one(two: list[dict[str, Any]], case: str, n: int) -> None:
    alone = tiny_run(None, n)
    for found in two:
        same(found[case], alone)


def test_two_workers_equal_one_on_cached_features(two: list[dict[str, Any]]) -> None:
    alone = cached_run(None)
    for found in two:
        same(found["cached"], alone, CLOSE_ON_FEATURES)


def test_two_workers_equal_one_in_modern_form(two: list[dict[str, Any]]) -> None:
    alone = modern_run(None)
    for found in two:
        same(found["modern"], alone)


def test_two_workers_equal_one_on_whole_network(two: list[dict[str, Any]]) -> None:
    alone = end_to_end_run(None)
    for found in two:
        same(found["end_to_end"], alone)


def test_two_workers_equal_one_after_resume(two: list[dict[str, Any]]) -> None:
    alone = tiny_run(None, 70)
    for found in two:
        same(found["resumed"], alone)


def test_three_workers_equal_one_with_empty_last_share(three: list[dict[str, Any]]) -> None:
    expected = {
        "two_left": tiny_run(None, 66),
        "cached": cached_run(None),
        "tags": head_run(None, "tags"),
        "modern": modern_run(None, 66),
    }
    for found in three:
        for case, alone in expected.items():
            same(found[case], alone, CLOSE_ON_FEATURES if case == "cached" else CLOSE)


@pytest.mark.parametrize("kind", ["classes", "tags", "score"])
def test_two_workers_equal_one_for_other_heads(two: list[dict[str, Any]], kind: str) -> None:
    alone = head_run(None, kind)
    for found in two:
        same(found[kind], alone)


@pytest.mark.parametrize("case", ["partial", "cached", "tags"])
def test_workers_report_identical_results(two: list[dict[str, Any]], case: str) -> None:
    first, second = (found[case]["rows"] for found in two)
    assert all(
        a["val_probabilities"].tobytes() == b["val_probabilities"].tobytes() for a, b in zip(first, second, strict=True)
    )
    assert [row["train_loss"] for row in first] == [row["train_loss"] for row in second]


def test_one_worker_can_stop_both(two: list[dict[str, Any]]) -> None:
    assert [found["stopped"] for found in two] == [2, 2]


def test_diverged_loss_is_raised_by_both_workers(two: list[dict[str, Any]]) -> None:
    messages = {found["diverged"] for found in two}
    assert len(messages) == 1
    assert "in epoch 1, batch" in messages.pop()
