"""A pool of child processes that share a stream of items. If native code ends a child, its item is tried again.

For work on one machine without Ray. A child imports only what its function needs, not the parent's program
(`raypipe.processes.child`).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from raypipe.errors import StageError
from raypipe.processes.child import ChildWorker

Item = TypeVar("Item")
Result = TypeVar("Result")

_TRIES = 4
# One item in work, and the next one, so that the child need not wait for it.
_ITEMS_PER_CHILD = 2
# As in Ray's workers. With more threads, the children would compete for CPUs.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


def cpus() -> int:
    """Number of CPUs that this process may use. All CPUs of the machine if the system does not limit them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Pool(Generic[Item, Result]):
    """``with Pool(function, 2) as pool: for result in pool.map(items): …``

    `function(item, attempt)` runs in one of `children` processes. `function`, items and results must be picklable. If
    the process ends on an item, a new process gets the item again, with the next `attempt` (0 is the first). The
    processes start with the body. When the body ends, they are killed at once.
    """

    def __init__(self, function: Callable[[Item, int], Result], children: int) -> None:
        self._items: queue.SimpleQueue[_PoolItem[Item] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[_PoolResult[Result]] = queue.SimpleQueue()
        self._children = [
            ChildWorker(_TupleFunction(function), _crash, seconds=None, environment=_ENVIRONMENT)
            for _ in range(children)
        ]
        # A child ends with the thread that started it.
        self._threads = [
            threading.Thread(target=self._run_child, args=(child,), daemon=True) for child in self._children
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.stop()
            self._items.put(None)
        for thread in self._threads:
            thread.join()

    def map(self, items: Iterable[Item | None]) -> Iterator[Result]:
        """The function's results as they arrive, not in order. A None in `items` yields the results so far.

        At most two items per process are taken before their results. Raises the function's errors, and StageError if an
        item ended its process four times or if no process starts.
        """
        most, waiting = _ITEMS_PER_CHILD * len(self._children), 0
        for item in items:
            if item is not None:
                self._items.put(_PoolItem(item))
                waiting += 1
            while waiting == most or (waiting and not self._results.empty()):
                yield self._results.get().value()
                waiting -= 1
        for _ in range(waiting):
            yield self._results.get().value()

    def _run_child(self, child: ChildWorker[tuple[Item, int], Result | _Crash]) -> None:
        try:
            with child:
                child.start()
                while (given := self._items.get()) is not None:
                    self._results.put(_PoolResult(result=_apply_with_retries(child, given.item)))
        except BaseException as error:
            self._results.put(_PoolResult(error=error))


@dataclass(frozen=True)
class _PoolItem(Generic[Item]):
    item: Item


@dataclass(frozen=True)
class _PoolResult(Generic[Result]):
    result: Result | None = None
    error: BaseException | None = None

    def value(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


@dataclass(frozen=True)
class _TupleFunction(Generic[Item, Result]):
    """The function with its two arguments as one tuple."""

    function: Callable[[Item, int], Result]

    def __call__(self, question: tuple[Item, int]) -> Result:
        return self.function(*question)


@dataclass(frozen=True)
class _Crash:
    exit_reason: str


def _crash(_question: object, exit_reason: str) -> _Crash:
    return _Crash(exit_reason)


def _apply_with_retries(child: ChildWorker[tuple[Item, int], Result | _Crash], item: Item) -> Result:
    exit_reason = ""
    for attempt in range(_TRIES):
        (answer,) = child([(item, attempt)])
        if not isinstance(answer, _Crash):
            return answer
        exit_reason = answer.exit_reason
    raise StageError(
        f"a worker process ended {_TRIES} times on the same work (last: {exit_reason}); if memory is short, use "
        "fewer processes (--faces.workers, --ray.num_cpus); run the same command again to continue"
    )
