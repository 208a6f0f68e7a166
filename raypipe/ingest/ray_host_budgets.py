"""The budgets of hosts as a Ray actor, one for all fetchers of a run, and its totals for the driver's display."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.util.metrics import Gauge
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.ingest.fetching.budgets import BudgetGrant, BudgetReport, HostBudgets
from raypipe.ingest.progress_text import call_every_second

_GRACE_SECONDS = 2.0


class HostBudgetActor:
    """`HostBudgets` as an actor."""

    def __init__(self, per_host: int, rate: float | None) -> None:
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._budgets = HostBudgets(per_host, rate, grace=_GRACE_SECONDS if again else 0.0)
        self._attempt = 0

    def exchange(self, fetcher: str, report: BudgetReport, attempt: int) -> BudgetGrant | None:
        """`HostBudgets.exchange`. Returns None if the fetcher belongs to an earlier attempt than the current one."""
        if attempt < self._attempt:
            return None
        grant = self._budgets.exchange(fetcher, report)
        waiting, running = self._budgets.totals()
        gauges = _gauges()
        gauges["hosts_waiting"].set(waiting)
        gauges["requests_running"].set(running)
        return grant

    def totals(self) -> tuple[int, int]:
        """`HostBudgets.totals`."""
        return self._budgets.totals()

    def begin(self, attempt: int) -> None:
        """Begin another attempt: the fetchers of the last attempt lose their budget, the pauses of hosts stay."""
        self._attempt = attempt
        self._budgets.clear()


@functools.cache
def _gauges() -> dict[str, Gauge]:
    return {
        "hosts_waiting": Gauge("raypipe_ingest_hosts_waiting", "hosts that make requests wait"),
        "requests_running": Gauge("raypipe_ingest_requests_running", "requests in progress"),
    }


@contextlib.contextmanager
def start_host_budgets(per_host: int, rate: float | None, show: Callable[[int, int], None]) -> Iterator[Any]:
    """Run a `HostBudgetActor` on the driver's machine: it ends only with the run. `show` gets its totals."""
    driver_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    budget_actor = (
        ray.remote(HostBudgetActor)
        .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=driver_node)
        .remote(per_host, rate)
    )
    try:
        with call_every_second(lambda: show(*ray.get(budget_actor.totals.remote(), timeout=5.0))):
            yield budget_actor
    finally:
        ray.kill(budget_actor)
