"""Prediction in this process, without Ray: for one machine without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch

from raypipe.config import Config
from raypipe.predict.model import TrainedModel
from raypipe.predict.picture_files import InputPicture
from raypipe.predict.unit_predictor import UnitPredictor
from raypipe.processes.pool import cpus
from raypipe.progress import Progress
from raypipe.runtime import should_use_ray
from raypipe.tables import TableWriter


def can_run_locally(config: Config) -> bool:
    """Whether one process is enough: Ray is not wanted, and there is no GPU to use."""
    return not should_use_ray(config) and (config.train.gpu is False or not torch.cuda.is_available())


def torch_thread_count(config: Config) -> int:
    """Number of torch threads on a CPU. The last bits of a prediction depend on it."""
    return config.ray.num_cpus or torch.get_num_threads()


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Sets the number of torch threads for the body of the ``with``, and restores it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def predict_locally(
    config: Config,
    writer: TableWriter,
    model: TrainedModel,
    units: Mapping[str, Sequence[InputPicture]],
    progress: Progress,
) -> None:
    """Stage the rows of `units` (pictures by the name of the unit), one unit after the other."""
    workers = config.ray.num_cpus or cpus()
    with torch_threads(torch_thread_count(config)), UnitPredictor(model, writer, "cpu", workers) as predictor:
        for unit, pictures in units.items():
            predictor.predict(unit, pictures)
            progress.advance(len(pictures))
