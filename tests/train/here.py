"""A training in this process and without Ray, equal to that of the commands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError
from raypipe.tables.root_tables import RootTables
from raypipe.train import sweep
from raypipe.train.data.images import decode_and_resize
from raypipe.train.data.npy_rows import to_npy
from raypipe.train.decode import find_target
from raypipe.train.networks.weights import load_weights
from raypipe.train.trial_plan import PictureTable, Trial, TrialPlan
from raypipe.train.trials.run_trial import run_trial


def train_here(config: Config, table: str, seeds: int, values: tuple[tuple[str, Any], ...] = ()) -> None:
    """Train configuration A in this process. Trials, tables and record equal those of `train` and `sweep` on Ray.

    `values` are the trials' own options.
    """
    storage, size = config.open_storage(), config.train.image_size
    labels, images = tables.get_record(storage, "labels"), tables.get_record(storage, "images")
    wanted = tables.read_table(storage, "labels", ["post_id", "split", "label"])
    target = find_target(storage, labels, wanted["label"])
    stored = RootTables.open(storage).pictures(wanted["post_id"].to_pylist())
    rows, pixels = [], []
    for row in wanted.filter(pc.field("label").is_valid()).to_pylist():
        try:
            pixels.append(decode_and_resize(stored[row["post_id"]], size))
            rows.append({**row, "shard": "pixels.npy", "place": len(pixels) - 1, "error": None})
        except InputError as error:
            rows.append({**row, "shard": "pixels.npy", "place": None, "error": str(error)})
    texts = [pa.field(name, pa.string()) for name in ("post_id", "split", "shard", "error")]
    schema = pa.schema([*texts, wanted.schema.field("label"), pa.field("place", pa.int32())])
    with tables.begin(storage, "_tensors/32px", command="train", config={}, inputs={}, overwrite=True) as run:
        run.writer.write_file("pixels.npy", to_npy(np.stack(pixels)))
        run.writer.write("00000", pa.Table.from_pylist(rows, schema=schema))
        broken = sum(row["error"] is not None for row in rows)
        run.commit(rows_in=len(wanted), dropped={"unlabelled": len(wanted) - len(rows)}, facts={"undecodable": broken})
    pictures = PictureTable(storage, "_tensors/32px", size, target)
    trials, weights = [Trial("A", seed, values=values) for seed in range(seeds)], load_weights("random")
    inputs = {"labels": labels.run_id, "images": images.run_id}
    with tables.begin(
        storage, table, command="train", config=config.result_options("seed", "train"), inputs=inputs
    ) as run:
        for trial in trials:
            run_trial(TrialPlan(trial, trial.options(config.train), pictures, run.writer), weights, device="cpu")
        sweep._commit(config, run, pictures, trials, weights, 0.0)
