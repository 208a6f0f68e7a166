"""Runs the loop on generated pictures and measures it: in this process, in child processes, or in Ray's workers."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raypipe.train.data.images import ImageSet, image_set
from raypipe.train.loop.choices import Compile
from raypipe.train.loop.fit import fit
from raypipe.train.loop.inputs import DType
from raypipe.train.loop.state import EpochResult, LoopOptions
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights

OnEpoch = Callable[[EpochResult], None]


@dataclass(frozen=True)
class Task:
    """What to train, on which device (`cuda` or `cpu`), and in which arithmetic. `batch` counts over all workers."""

    letter: str
    batch: int
    epochs: int
    device: str
    dtype: DType
    compile: Compile = "none"


def pictures(n: int, size: int, seed: int) -> ImageSet:
    """Pictures of noise, every second one labelled 1. The same seed gives the same pictures."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), np.uint8)
    return image_set(pixels, (np.arange(n) % 2).astype(np.float32), [str(i) for i in range(n)])


def train(
    task: Task, training: ImageSet, val: ImageSet, *, group: Any | None = None, on_epoch: OnEpoch | None = None
) -> list[EpochResult]:
    """Run the loop from random weights. Returns the result of each epoch."""

    def see(result: EpochResult, _state: object) -> bool:
        if on_epoch:
            on_epoch(result)
        return False

    configuration, weights = CONFIGURATIONS[task.letter], load_weights("random")
    model = build_vgg(configuration, image_size=training.image_size, weights=weights, seed=0, init="he")
    options = LoopOptions(
        epochs=task.epochs,
        batch_size=task.batch,
        learning_rate=1e-5,
        seed=0,
        dtype=task.dtype,
        device=task.device,
        compile=task.compile,
    )
    preprocessing = weights.preprocessing
    return fit(model, configuration, training, val, options, preprocessing=preprocessing, group=group, on_epoch=see)


def measured(
    task: Task, training: ImageSet, val: ImageSet, *, group: Any | None = None, on_epoch: OnEpoch | None = None
) -> dict[str, Any]:
    """The numbers of the last epoch. The first epoch compiles, allocates and, for A, computes the features.

    `memory_gb` is the peak of tensors on the device, None on a CPU. `host_gb` is the process's peak resident set.
    """
    on_gpu = task.device.startswith("cuda")
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began_at, started = time.time(), time.perf_counter()
    epochs = train(task, training, val, group=group, on_epoch=on_epoch)
    last = epochs[-1]
    return {
        "configuration": task.letter,
        "batch": task.batch,
        "images_per_s": last.images_per_s,
        "mfu": last.mfu,
        "data_wait": last.data_wait,
        "train_loss": last.train_loss,
        "first_epoch_images_per_s": epochs[0].images_per_s,
        "wall_s": time.perf_counter() - started,
        "began_at": began_at,
        "memory_gb": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "host_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def in_a_process(task: Task, sizes: tuple[int, int, int], threads: int, rank: int, world: int, port: int) -> Any:
    """`measured` in this process as worker `rank` of `world`, which connect through a loopback port. `sizes`: training
    pictures, validation pictures, pixels of a side."""
    group = None
    if task.device == "cuda":
        torch.cuda.set_device(rank)
    else:
        torch.set_num_threads(threads)
    if world > 1:
        torch.distributed.init_process_group(
            "nccl" if task.device == "cuda" else "gloo",
            init_method=f"tcp://127.0.0.1:{port}",
            rank=rank,
            world_size=world,
        )
        group = torch.distributed.group.WORLD
    try:
        n, n_val, size = sizes
        return measured(task, pictures(n, size, 0), pictures(n_val, size, 1), group=group)
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()


def in_a_ray_worker(loop_config: dict[str, Any]) -> dict[str, Any]:
    """`measured` in a worker of Ray Train. Each epoch is reported, as in raypipe's trials."""
    import ray.train

    task, threads = loop_config["task"], loop_config["threads"]
    if task.device == "cpu":
        # Ray sets OMP_NUM_THREADS from the requested number of CPUs, which is a fraction.
        torch.set_num_threads(threads)
    many = ray.train.get_context().get_world_size() > 1
    n, n_val, size = loop_config["sizes"]

    def report(result: EpochResult) -> None:
        ray.train.report({"epoch": result.epoch, "images_per_s": result.images_per_s})

    group = torch.distributed.group.WORLD if many else None
    return measured(task, pictures(n, size, 0), pictures(n_val, size, 1), group=group, on_epoch=report)
