"""The loop through Ray Train, beside the same loop in bare processes, on generated pictures: what Ray costs.

Both train the same configuration with the same number of workers, by turns. The bare processes form a torch.distributed
group, as with torchrun. Images per second and similar numbers are those of the last epoch. `first step after` is the
time from the call until the loop begins, with drawing the pictures but without starting Ray.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from benchmarks import results
from benchmarks.train.generated import Task, in_a_process, in_a_ray_worker
from raypipe.config.load import load_config
from raypipe.runtime import ray_session
from raypipe.train.loop.choices import compute_dtype

_BARE, _RAY = "bare", "Ray Train"
_COLUMNS = {"images/s": ("images_per_s", 1), "MFU": ("mfu", 3), "data wait": ("data_wait", 4), "GB": ("memory_gb", 1)}


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    # As in raypipe's sweep. A report waits for the controller's next check.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    runs: list[dict[str, Any]] = []
    started = time.perf_counter()
    with ray_session(load_config(ray={"dashboard": False})):
        ray_start = time.perf_counter() - started
        for letter in given.configs:
            task = Task(letter, given.batch, given.epochs, given.device, given.dtype)
            for number in range(given.runs):
                for program, run in ((_BARE, _bare), (_RAY, _through_ray)):
                    called = time.time()
                    found = run(task, given)
                    took = {"first_step_after_s": found.pop("began_at") - called, "call_s": time.time() - called}
                    runs.append({"run": number, "program": program, **found, **took})
                    print(_line(runs[-1]), flush=True)
    _report(given, runs, ray_start)
    return 0


def _arguments() -> argparse.Namespace:
    gpus = torch.cuda.device_count()
    made = results.parser(__doc__, 30_082, "training pictures")
    made.add_argument("--val", type=int, default=10_027, help="validation pictures")
    made.add_argument("--size", type=int, default=224, help="pixels of a side")
    made.add_argument("--configs", type=lambda text: text.split(","), default="C")
    made.add_argument("--batch", type=int, default=32, help="pictures per step, over all workers")
    made.add_argument("--epochs", type=int, default=2)
    made.add_argument("--workers", type=int, default=max(1, gpus), help="data-parallel workers")
    made.add_argument("--device", default="cuda" if gpus else "cpu")
    made.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])
    given = made.parse_args()
    given.dtype = compute_dtype(given.dtype, given.device)
    given.threads = max(1, len(os.sched_getaffinity(0)) // given.workers)
    given.sizes = (given.images, given.val, given.size)
    return given


def _bare(task: Task, given: argparse.Namespace) -> dict[str, Any]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(given.workers, mp_context=context) as pool:
        # Each task keeps its process until all workers have joined the group.
        found = [
            pool.submit(in_a_process, task, given.sizes, given.threads, rank, given.workers, port)
            for rank in range(given.workers)
        ]
        first: dict[str, Any] = found[0].result()
    return first


def _through_ray(task: Task, given: argparse.Namespace) -> dict[str, Any]:
    import ray.train
    from ray.train.torch import TorchTrainer

    # A little less than whole CPUs, because the controller needs a part of one.
    resources: dict[str, float] = {"CPU": given.threads - 0.05}
    if given.device == "cuda":
        resources["GPU"] = 1
    with tempfile.TemporaryDirectory() as folder:
        result = TorchTrainer(
            in_a_ray_worker,
            train_loop_config={"task": task, "sizes": given.sizes, "threads": given.threads},
            scaling_config=ray.train.ScalingConfig(
                num_workers=given.workers, use_gpu=given.device == "cuda", resources_per_worker=resources
            ),
            run_config=ray.train.RunConfig(storage_path=folder, name="loop"),
        ).fit()
    found: dict[str, Any] = result.return_value
    return found


def _line(run: dict[str, Any]) -> str:
    mfu = f", MFU {100 * run['mfu']:.1f} %" if run["mfu"] else ""
    return (
        f"{run['configuration']} {run['program']} {run['run'] + 1}: {run['images_per_s']:,.1f} images/s{mfu}, "
        f"first step after {run['first_step_after_s']:.1f} s, in total {run['call_s']:.1f} s"
    )


def _report(given: argparse.Namespace, runs: list[dict[str, Any]], ray_start: float) -> None:
    rows, share = [], {}
    for letter in given.configs:
        by_program = {
            program: [run for run in runs if (run["configuration"], run["program"]) == (letter, program)]
            for program in (_BARE, _RAY)
        }
        for program, own in by_program.items():
            rows.append(
                {
                    "configuration": f"{letter}, {given.workers} workers",
                    "program": program,
                    **{
                        head: results.shown([run[key] for run in own], digits) if own[0][key] is not None else "–"
                        for head, (key, digits) in _COLUMNS.items()
                    },
                    "host GB per worker": results.shown([run["host_gb"] for run in own], 1),
                    "first step after, s": results.shown([run["first_step_after_s"] for run in own], 1),
                    "in total, s": results.shown([run["call_s"] for run in own], 1),
                }
            )
        pairs = zip(by_program[_RAY], by_program[_BARE], strict=True)
        share[letter] = results.spread([ours["images_per_s"] / bare["images_per_s"] for ours, bare in pairs])
    print("\n" + results.table(rows))
    for letter, found in share.items():
        print(f"{letter} through Ray Train: {found['median']:.3f} of the bare loop's images/s")
    print(f"Ray started in {ray_start:.1f} s")
    keys = ("images", "val", "size", "batch", "epochs", "workers", "threads", "device", "dtype", "runs")
    content = {
        "configuration": {key: getattr(given, key) for key in keys},
        "device": torch.cuda.get_device_name() if given.device == "cuda" else "cpu",
        "ray_start_s": ray_start,
        "of_bare_images_per_s": share,
        "runs": runs,
    }
    print(results.write(given.results, "ray_train", content, subject="train").name)


if __name__ == "__main__":
    sys.exit(main())
