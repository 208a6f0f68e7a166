"""``raypipe predict``: predictions for new pictures, one row per picture, in this process or on Ray Data."""

from __future__ import annotations

import hashlib
import os
import pickle
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raypipe import tables
from raypipe.config import Config
from raypipe.predict.inputs import find_pictures
from raypipe.predict.local import can_run_locally, predict_locally, torch_thread_count
from raypipe.predict.model import TrainedModel, read_checkpoint
from raypipe.predict.picture_files import InputPicture, add_file_info, pictures_fingerprint, printable_path
from raypipe.predict.unit_predictor import UnitPredictor
from raypipe.progress import Progress, print_line
from raypipe.runtime import ray_session
from raypipe.tables import TableWriter
from raypipe.tables.record import RunRecord

_UNIT = 512
_REASONS_SHOWN = 3


def run(config: Config) -> RunRecord:
    """Write ``predict/NAME/``: for each picture the model's prediction, or an `error` (see docs/tables.md).

    Raises InputError if an input or the model is missing. Raises StageError if the table has another result: of other
    options, another model or other pictures. The same paths with changed files are other pictures.
    """
    storage = config.open_storage()
    found = find_pictures(config.predict.inputs, storage)
    name, checkpoint = read_checkpoint(storage, config.predict.model)
    model = TrainedModel.from_bytes(checkpoint, name)
    pictures = add_file_info(found.pictures, storage)
    inputs = {"model": hashlib.sha256(checkpoint).hexdigest(), "pictures": pictures_fingerprint(pictures)}
    table = f"predict/{config.predict.name}"
    with tables.begin(
        storage, table, command="predict", config=_options(config), inputs=inputs, overwrite=config.overwrite
    ) as run_:
        if run_.record is not None:
            return run_.record
        started = time.monotonic()
        reasons = _predict(config, run_.writer, model, pictures)
        record = run_.commit(
            rows_in=len(pictures) + found.n_repeated,
            dropped={"named_twice": found.n_repeated} if found.n_repeated else {},
            seconds={"predict": time.monotonic() - started},
            facts={
                "model": name,
                "configuration": model.configuration,
                "head": model.head.target.kind,
                "classes": list(model.classes),
                "errors": reasons.total(),
                "reasons": dict(reasons.most_common()),
            },
        )
    why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(_REASONS_SHOWN))
    print_line(
        f"{record.rows_out:,} pictures, {reasons.total():,} not readable{f' ({why})' if why else ''}: "
        f"{storage.uri(table)}"
    )
    return record


def _options(config: Config) -> dict[str, Any]:
    options = config.result_options("predict")
    options["predict"]["inputs"] = [printable_path(item) for item in config.predict.inputs]
    return options


def _predict(
    config: Config, writer: TableWriter, model: TrainedModel, pictures: Sequence[InputPicture]
) -> Counter[str]:
    """Stage the rows that are not staged yet. Returns how many pictures of all rows cannot be read, by reason."""
    units = {f"{i // _UNIT:05d}": pictures[i : i + _UNIT] for i in range(0, len(pictures), _UNIT)}
    done = writer.units_done()
    left = {unit: part for unit, part in units.items() if unit not in done}
    with Progress("Predicting", len(pictures), "pictures") as progress:
        progress.advance(len(pictures) - sum(map(len, left.values())))
        if left and can_run_locally(config):
            predict_locally(config, writer, model, left, progress)
        elif left:
            with ray_session(config):
                _predict_on_ray(config, writer, model, left, progress)
    errors = [tables.read_staged(writer, unit, ["error"])["error"].drop_null().to_pylist() for unit in units]
    # The text after the colon differs between pictures.
    return Counter(error.partition(": ")[0] for unit in errors for error in unit)


def _predict_on_ray(
    config: Config,
    writer: TableWriter,
    model: TrainedModel,
    units: Mapping[str, Sequence[InputPicture]],
    progress: Progress,
) -> None:
    import ray
    from ray.data import ActorPoolStrategy

    gpus = int(ray.cluster_resources().get("GPU", 0)) if config.train.gpu is not False else 0
    actors = max(1, gpus)
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // actors)
    # Pickled, because Arrow's strings cannot hold paths that are not UTF-8.
    rows = [{"unit": unit, "pictures": pickle.dumps(list(part))} for unit, part in units.items()]
    predicted = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        _RayPredictor,
        fn_constructor_args=(ray.put(model), writer, "cuda" if gpus else "cpu", workers, torch_thread_count(config)),
        compute=ActorPoolStrategy(size=actors),
        num_gpus=1 if gpus else 0,
    )
    for row in predicted.iter_rows():
        progress.advance(int(row["rows"]))


class _RayPredictor:
    """One copy of the model, on one GPU or on the CPUs of its actor."""

    def __init__(self, model: Any, writer: TableWriter, device: str, workers: int, threads: int) -> None:
        import ray
        import torch

        # Ray sets one thread per actor. That is slow, and the last bits would differ from a run without Ray.
        torch.set_num_threads(threads)
        # Its child processes end with the actor.
        self._predictor = UnitPredictor(ray.get(model), writer, device, min(workers, os.cpu_count() or 1))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        pictures: list[InputPicture] = pickle.loads(row["pictures"])
        self._predictor.predict(row["unit"], pictures)
        return {"unit": row["unit"], "rows": len(pictures)}
