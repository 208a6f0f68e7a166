"""The training loop alone, without Ray, on generated pictures of the paper's size, against torchvision's recipe.

For each configuration and batch size: images per second, the share of the device's peak arithmetic, the share of time
in which no picture was ready, and memory. Optionally also the time for all of table 1. Needs torch and what
raypipe.train imports, but not Ray. On a machine without a GPU, use fewer and smaller pictures.
"""

from __future__ import annotations

import sys
import time
from typing import Any, get_args

import torch

from benchmarks import results
from benchmarks.train.generated import Task, measured, pictures
from benchmarks.train.generated import train as fit_generated
from benchmarks.train.reference import seconds_of_epoch
from raypipe.config.base import DEFAULT_EPOCHS
from raypipe.train.data.images import ImageSet
from raypipe.train.loop.choices import Compile, compute_dtype
from raypipe.train.networks.configurations import CONFIGURATIONS

_TRAIN, _VAL = 30_082, 10_027
_GOAL_MFU, _GOAL_WAIT, _GOAL_TABLE_S = 0.40, 0.02, 7 * 60.0


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    train, val = pictures(given.images, given.size, 0), pictures(given.val, given.size, 1)
    runs: list[dict[str, Any]] = []
    for letter in given.configs:
        for batch in given.batches if letter != "A" else given.batches[:1]:
            for number in range(given.runs):
                runs.append({"run": number, **_ours(letter, train, val, batch, given)})
                print(_line(runs[-1]), flush=True)
                if letter != "A" and not given.no_peer:
                    runs.append({"run": number, **_theirs(letter, train, batch, given)})
                    print(_line(runs[-1]), flush=True)
    seconds = _table_1(train, val, given) if given.table1 else None
    _report(given, runs, seconds)
    return 0


def _arguments() -> Any:
    made = results.parser(__doc__, _TRAIN, "training pictures")
    gpu = torch.cuda.is_available()
    made.add_argument("--val", type=int, default=_VAL, help="validation pictures")
    made.add_argument("--size", type=int, default=224, help="pixels of a side")
    made.add_argument("--configs", type=lambda text: text.split(","), default="A,B,C,D")
    made.add_argument("--batches", type=lambda text: [int(word) for word in text.split(",")], default="32,256")
    made.add_argument("--device", default="cuda" if gpu else "cpu")
    made.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    made.add_argument("--compile", default="none", choices=get_args(Compile), help="torch.compile of our network")
    made.add_argument("--workers", type=int, default=8 if gpu else 0, help="loader processes of the peer")
    made.add_argument("--table1", action="store_true", help="also train all of table 1, once")
    made.add_argument("--no-peer", action="store_true", help="leave torchvision's recipe out")
    given = made.parse_args()
    given.dtype = compute_dtype(given.dtype, given.device)
    return given


def _ours(letter: str, train: ImageSet, val: ImageSet, batch: int, given: Any) -> dict[str, Any]:
    task = Task(letter, batch, 2, given.device, given.dtype, given.compile)
    return {"program": "raypipe", **measured(task, train, val)}


def _theirs(letter: str, train: ImageSet, batch: int, given: Any) -> dict[str, Any]:
    seconds = seconds_of_epoch(
        CONFIGURATIONS[letter], train.images, train.labels, batch, given.device, given.dtype, given.workers
    )
    return {"program": "torchvision", "configuration": letter, "batch": batch, "images_per_s": len(train) / seconds}


def _table_1(train: ImageSet, val: ImageSet, given: Any) -> dict[str, float]:
    seconds = {}
    for letter, epochs in DEFAULT_EPOCHS.items():
        started = time.perf_counter()
        fit_generated(Task(letter, given.batches[0], epochs, given.device, given.dtype, given.compile), train, val)
        seconds[letter] = time.perf_counter() - started
        print(f"table 1, {letter}: {epochs} epochs in {seconds[letter]:.1f} s", flush=True)
    return seconds


def _line(run: dict[str, Any]) -> str:
    mfu = f", MFU {100 * run['mfu']:.1f} %" if run.get("mfu") else ""
    wait = f", waiting {100 * run['data_wait']:.2f} %" if "data_wait" in run else ""
    memory = f", {run['memory_gb']:.1f} GB" if run.get("memory_gb") else ""
    name = f"{run['configuration']} batch {run['batch']} {run['program']} {run['run'] + 1}"
    return f"{name}: {run['images_per_s']:,.0f} images/s{mfu}{wait}{memory}"


def _report(given: Any, runs: list[dict[str, Any]], seconds: dict[str, float] | None) -> None:
    kinds = list(dict.fromkeys((run["configuration"], run["batch"]) for run in runs))

    def values(kind: tuple[str, int], program: str, key: str) -> list[float]:
        own = [run for run in runs if (run["configuration"], run["batch"]) == kind and run["program"] == program]
        return [run[key] for run in own if run.get(key) is not None]

    def cell(kind: tuple[str, int], program: str, key: str, digits: int = 0) -> str:
        found = values(kind, program, key)
        return results.shown(found, digits) if found else "–"

    rows = [
        {
            "configuration": kind[0],
            "batch": str(kind[1]),
            "raypipe, images/s": cell(kind, "raypipe", "images_per_s"),
            "torchvision, images/s": cell(kind, "torchvision", "images_per_s"),
            "MFU": cell(kind, "raypipe", "mfu", 3),
            "data wait": cell(kind, "raypipe", "data_wait", 4),
            "GB": cell(kind, "raypipe", "memory_gb", 1),
        }
        for kind in kinds
    ]
    print("\n" + results.table(rows))
    goals = []
    first = ("C", given.batches[0])
    if values(first, "raypipe", "mfu"):
        mfu = results.spread(values(first, "raypipe", "mfu"))["median"]
        wait = results.spread(values(first, "raypipe", "data_wait"))["median"]
        goals.append(results.goal(f"MFU of C at batch {first[1]}", mfu, _GOAL_MFU))
        goals.append(results.goal(f"data wait of C at batch {first[1]}", wait, _GOAL_WAIT, at_least=False))
    if seconds:
        goals.append(results.goal("seconds of table 1", sum(seconds.values()), _GOAL_TABLE_S, at_least=False))
    for found in goals:
        print(results.said(found))
    keys = ("images", "val", "size", "batches", "device", "dtype", "compile", "workers", "runs")
    content = {
        "configuration": {key: getattr(given, key) for key in keys} | {"torch": torch.__version__},
        "device": torch.cuda.get_device_name() if given.device.startswith("cuda") else "cpu",
        "table1_s": seconds,
        "goals": goals,
        "runs": runs,
    }
    print(results.write(given.results, "loop_rate", content, subject="train").name)


if __name__ == "__main__":
    sys.exit(main())
