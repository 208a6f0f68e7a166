"""Child processes that share items: complete results, retried crashes, bounded memory, ended with the body."""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator

import psutil
import pytest

from raypipe.errors import InputError, StageError
from raypipe.processes.pool import Pool, cpus
from tests.ingest.natives import in_pool


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "raypipe.processes.child" in child.cmdline()]


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    yield
    assert children() == []


def test_each_item_gives_one_result() -> None:
    with Pool(in_pool, 2) as pool:
        found = list(pool.map(range(40)))
        pids = {child.pid for child in children()}
        assert len(pids) == 2
        # The same children process the next items.
        assert {pid for _, pid in pool.map(range(9))} <= pids
    assert sorted(item for item, _ in found) == list(range(40))
    assert os.getpid() not in {pid for _, pid in found}


@pytest.mark.parametrize("what", ["segfault", ("signal", signal.SIGKILL), ("exit", 3), "close"])
def test_item_is_retried_if_its_process_ends(what: object) -> None:
    with Pool(in_pool, 1) as pool:
        found = [item for item, _ in pool.map([7, ("once", what), 8])]
    # The item returns the number of its second attempt.
    assert found == [7, 1, 8]


def test_item_that_always_crashes_raises_error() -> None:
    with (
        Pool(in_pool, 2) as pool,
        pytest.raises(StageError, match=r"ended 4 times .* \(last: SIGSEGV\)"),
    ):
        list(pool.map([1, "segfault", 2]))


def test_exception_of_function_is_raised() -> None:
    with Pool(in_pool, 2) as pool, pytest.raises(InputError, match="p7: no faces"):
        list(pool.map([1, ("raise", InputError("p7: no faces")), 2, 3, 4, 5]))


def test_only_few_items_are_prefetched() -> None:
    taken, done, most = 0, 0, 0

    def items() -> Iterator[int]:
        nonlocal taken, most
        for item in range(30):
            taken += 1
            most = max(most, taken - done)
            yield item

    with Pool(in_pool, 2) as pool:
        for _ in pool.map(items()):
            done += 1
    assert done == 30
    assert most <= 4


def test_results_are_yielded_while_waiting_for_items() -> None:
    seen: list[int] = []

    def items() -> Iterator[int | None]:
        yield 1
        while not seen:
            yield None
        yield 2

    with Pool(in_pool, 1) as pool:
        for item, _ in pool.map(items()):
            seen.append(item)
    assert seen == [1, 2]


@pytest.mark.timeout(60)
def test_leaving_the_body_ends_working_children() -> None:
    def interrupted() -> None:
        with Pool(in_pool, 2) as pool:
            next(pool.map(itertools.chain([1, "hang", "hang"], itertools.repeat(None))))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


@pytest.mark.timeout(60)
def test_leaving_the_body_ends_starting_children() -> None:
    with Pool(in_pool, 2):
        pass


def test_child_imports_only_needed_modules() -> None:
    names = ["raypipe.ingest.examine_and_stage", "raypipe.ingest.redo", "raypipe.world.pictures"]
    with Pool(in_pool, 1) as pool:
        (found,) = pool.map([("modules", names)])
    assert {"dlib", "PIL.Image", "pyarrow.parquet"} <= set(found)
    assert not {"ray", "torch", "pandas", "aiohttp", "scipy", "rich"} & set(found)


def test_cpu_count_respects_affinity() -> None:
    assert 1 <= cpus() <= (os.cpu_count() or 1)
    if sys.platform == "linux":
        assert cpus() == len(os.sched_getaffinity(0))
