"""Computes, without Ray, what hardware each trial gets and how many trials run at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raypipe.config import Config
from raypipe.errors import ConfigError
from raypipe.train.trial_plan import Trial, value_for_configuration

_MOST_CPUS_PER_GPU = 8
# CPUs of the smallest usual GPU nodes, used if no GPU node has started yet.
_CPUS_OF_A_NODE_TO_COME = 4


class Node(NamedTuple):
    """CPUs and GPUs of one machine. A worker runs on a single machine."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Hardware:
    """Hardware of one trial: workers, whether they use GPUs, and the CPUs and share of a GPU per worker."""

    workers: int
    gpu: bool
    cpus_per_worker: int
    gpus_per_worker: float = 1.0


@dataclass(frozen=True)
class Allocation:
    """Hardware by name of trial, and trials at a time. A trial that does not fit next to the others waits."""

    hardware: dict[str, Hardware]
    concurrent: int


def allocate(
    config: Config, trials: Sequence[Trial], nodes: Sequence[Node], is_autoscaling: bool = False
) -> Allocation:
    """Divides `nodes` among trials. If the cluster `is_autoscaling`, they are only the nodes started so far.

    Raises ConfigError if one trial alone needs more than there is, because it would never start.
    """
    workers, concurrent = config.train.workers, config.sweep.concurrent
    gpus, cpus = sum(node.gpus for node in nodes), sum(int(node.cpus) for node in nodes)
    use_gpu = gpus > 0 if config.train.gpu is None else config.train.gpu
    there, what = (gpus, "GPU") if use_gpu else (cpus, "CPU")
    # If nodes start on demand, trials wait for them. Only the user knows how many nodes there will be.
    if workers > there and not (is_autoscaling and config.train.gpu and concurrent):
        needed = f"{workers} workers of a trial need one {what} each" if workers > 1 else f"a trial needs a {what}"
        advice = ", or, if GPU nodes start on demand, set --train.gpu true and --sweep.concurrent N"
        raise ConfigError(
            f"train.workers: {needed}, but there {'is' if there == 1 else 'are'} {there:g}; "
            + (f"lower train.workers{advice if use_gpu else ''}" if there else f"set --train.gpu false{advice}")
        )
    if not use_gpu:
        at_a_time = concurrent or 1
        each = Hardware(workers, False, _cpus_each(nodes, workers * at_a_time))
        return Allocation({trial.name: each for trial in trials}, at_a_time)
    by_node = [int(node.cpus // node.gpus) for node in nodes if node.gpus] or [_CPUS_OF_A_NODE_TO_COME]
    cpus_per_gpu = max(1, min(_MOST_CPUS_PER_GPU, *by_node))
    hardware = {}
    for trial in trials:
        share = _share(config, trial) if len(trials) > 1 else 1.0
        hardware[trial.name] = Hardware(workers, True, max(1, int(cpus_per_gpu * share)), share)
    return Allocation(hardware, concurrent or _most(list(hardware.values()), gpus))


def _cpus_each(nodes: Sequence[Node], workers: int) -> int:
    """The most CPUs that all `workers` can have at once, each worker on one node. 1 if not all workers have room."""
    most = max((int(node.cpus) for node in nodes), default=1)
    fitting = (n for n in range(most, 1, -1) if sum(int(node.cpus // n) for node in nodes) >= workers)
    return next(fitting, 1)


def _share(config: Config, trial: Trial) -> float:
    # Workers of one trial communicate through NCCL, which needs one GPU per worker.
    if config.train.workers > 1:
        return 1.0
    shares = config.sweep.gpu_share
    return (
        1.0
        if isinstance(shares, dict) and trial.configuration not in shares
        else float(value_for_configuration(shares, trial.configuration))
    )


def _most(trials: Sequence[Hardware], gpus: float) -> int:
    """The largest number of trials that can run at once, counted from the smallest trial on; at least 1."""
    left, n = gpus, 0
    for needed in sorted(each.workers * each.gpus_per_worker for each in trials):
        left -= needed
        if left < -1e-9:
            break
        n += 1
    return max(1, n)
