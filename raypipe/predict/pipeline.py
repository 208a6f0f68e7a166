"""``raypipe predict``: probabilities for new pictures, a row a picture, on Ray Data."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError, one_line
from raypipe.predict.inputs import find_pictures, open_filesystem
from raypipe.predict.model import TrainedModel, read_checkpoint
from raypipe.predict.rows import prediction_rows
from raypipe.progress import Progress, say
from raypipe.records import RunRecord
from raypipe.runtime import ray_session
from raypipe.tables import TableWriter
from raypipe.train.images import decode_and_resize

_UNIT = 512


def run(config: Config) -> RunRecord:
    """Write ``predict/NAME/``: for each picture what the model says of it, or an `error` (see docs/tables.md)."""
    storage = config.open_storage()
    paths = find_pictures(config.predict.inputs)
    name, checkpoint = read_checkpoint(storage, config.predict.model)
    model = TrainedModel.from_bytes(checkpoint, name)
    inputs = {
        "model": hashlib.sha256(checkpoint).hexdigest(),
        "pictures": hashlib.sha256("\n".join(paths).encode()).hexdigest(),
    }
    table = f"predict/{config.predict.name}"
    with (
        ray_session(config),
        tables.begin(
            storage,
            table,
            command="predict",
            config=config.result_options("predict"),
            inputs=inputs,
            overwrite=config.overwrite,
        ) as run_,
    ):
        if run_.record is not None:
            return run_.record
        started = time.monotonic()
        errors = _predict(config, run_.writer, model, paths)
        record = run_.commit(
            rows_in=len(paths),
            seconds={"predict": time.monotonic() - started},
            facts={
                "model": name,
                "configuration": model.configuration,
                "head": model.head.target.kind,
                "classes": list(model.classes),
                "errors": errors,
            },
        )
    say(f"{record.rows_out:,} pictures, {errors:,} not readable: {storage.uri(table)}")
    return record


def _predict(config: Config, writer: TableWriter, model: TrainedModel, paths: list[str]) -> int:
    import ray
    from ray.data import ActorPoolStrategy

    units: list[dict[str, Any]] = [
        {"unit": f"{i // _UNIT:05d}", "paths": paths[i : i + _UNIT]} for i in range(0, len(paths), _UNIT)
    ]
    done = writer.units_done()
    left = [unit for unit in units if unit["unit"] not in done]
    with Progress("Predicting", len(paths), "pictures") as progress:
        progress.advance(len(paths) - sum(len(unit["paths"]) for unit in left))
        if left:
            gpus = int(ray.cluster_resources().get("GPU", 0)) if config.train.gpu is not False else 0
            rows = ray.data.from_items(left, override_num_blocks=len(left)).map(
                _Predictor,
                fn_constructor_args=(ray.put(model), writer, "cuda" if gpus else "cpu"),
                compute=ActorPoolStrategy(size=max(1, gpus)),
                num_gpus=1 if gpus else 0,
            )
            for row in rows.iter_rows():
                progress.advance(int(row["rows"]))
    errors = [tables.read_staged(writer, unit["unit"], ["error"])["error"].drop_null() for unit in units]
    return sum(len(column) for column in errors)


class _Predictor:
    """One copy of the model, on one GPU or the CPUs of its actor."""

    def __init__(self, model: Any, writer: TableWriter, device: str) -> None:
        import ray

        self._model: TrainedModel = ray.get(model)
        self._writer, self._device = writer, device

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        paths, size = list(row["paths"]), self._model.image_size
        images: list[NDArray[np.uint8]] = []
        errors: list[str | None] = []
        for path in paths:
            try:
                filesystem, inner = open_filesystem(path)
                with filesystem.open_input_stream(inner) as file:
                    images.append(decode_and_resize(file.read(), size))
                errors.append(None)
            except (OSError, InputError) as error:
                errors.append(one_line(error))
        pictures = np.stack(images) if images else np.zeros((0, 3, size, size), np.uint8)
        found = self._model.predictions(pictures, self._device)
        self._writer.write(row["unit"], prediction_rows(self._model.head.target, paths, errors, found))
        return {"rows": len(paths)}
