"""Makes pictures of one size from labels/ and images/. Ray Data decodes them once, in parallel, for all trials."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raypipe import tables
from raypipe.config import Config
from raypipe.errors import InputError, StageError
from raypipe.pictures.decoding import Undecodable, decode_square, picture_decoder
from raypipe.progress import Progress, print_line
from raypipe.storage import Storage
from raypipe.tables import TableWriter
from raypipe.tables import lock as claims
from raypipe.tables.record import Claim, RunRecord
from raypipe.tables.schemas import LABEL_TYPES
from raypipe.tables.untrusted import read_parquet
from raypipe.train.data.npy_rows import to_npy
from raypipe.train.data.target import Target
from raypipe.train.trial_plan import PictureTable

TENSORS = "_tensors"
# Version of the file format. If it changes, pictures of an older version are decoded again.
_LAYOUT = 2
_RETRIES = 3


def prepare_pictures(config: Config) -> PictureTable:
    """Decode and resize every labelled picture once. A later training of the same size reuses them.

    Needs a running Ray. Raises InputError if there is nothing to train on: no picture bytes, no label, only one class,
    or a split without pictures.
    """
    storage, size = config.open_storage(), config.train.image_size
    labels, images = tables.get_record(storage, "labels"), tables.get_record(storage, "images")
    wanted = tables.read_table(storage, "labels", ["post_id", "label", "split"])
    target = find_target(storage, labels, wanted["label"])
    inputs = {"labels": labels.run_id, "images": images.run_id}
    key = hashlib.sha256(json.dumps([inputs, size, _LAYOUT], sort_keys=True).encode()).hexdigest()[:8]
    table = f"{TENSORS}/{size}px-{key}"
    _drop_stale(storage, inputs)
    layout = {"image_size": size, "layout": _LAYOUT}
    with tables.begin(storage, table, command="train", config=layout, inputs=inputs) as run:
        if run.record is None:
            started = time.monotonic()
            counts = _decode(config, run.writer, wanted.filter(pc.field("label").is_valid()))
            _require_pictures(storage, counts, target)
            unlabelled = wanted["label"].null_count
            run.commit(
                rows_in=len(wanted),
                dropped={"unlabelled": unlabelled, "no_picture": len(wanted) - unlabelled - sum(counts.values())},
                seconds={"decode": time.monotonic() - started},
                facts={"undecodable": counts["undecodable"], "classes": list(target.names)},
            )
            if counts["undecodable"]:
                print_line(f"  {counts['undecodable']:,} pictures can no longer be decoded and are left out")
    return PictureTable(storage, table, size, target)


def find_target(storage: Storage, labels: RunRecord, column: pa.ChunkedArray) -> Target:
    """The target of the labels, from the type of their `column`, and for hashtags from the options of `label`.

    Classes are in alphabetical order, tags in that of ``label.hashtags``. Raises InputError on fewer than two classes.
    """
    if column.type == LABEL_TYPES["continuous"]:
        return Target("score", ())
    if pa.types.is_list(column.type):
        # Imported here: it imports formulas, which is slow, and other heads do not need it.
        from raypipe.label.schemes import chosen_tags

        return Target("tags", tuple(chosen_tags(labels.config["label"]["hashtags"]).values()))
    found = sorted(pc.unique(column.drop_null()).to_pylist())
    if len(found) < 2:
        shown = ", ".join(map(repr, found)) or "none"
        raise InputError(
            f"{storage.uri('labels')}: training needs two classes or more, found {len(found)} ({shown}); "
            "see --label.scheme"
        )
    return Target("binary" if len(found) == 2 else "classes", tuple(found))


def _require_pictures(storage: Storage, counts: Counter[str], target: Target) -> None:
    present = [tuple(key.split("/", 1)) for key in counts if key != "undecodable"]
    if not present:
        raise InputError(
            f"{storage.uri('images')}: has no picture of a labelled post "
            "(a world without images, or --ingest.fetch false?)"
        )
    for split in ("train", "val"):
        found = {label for in_split, label in present if in_split == split}
        if not found:
            hint = "set --label.val above 0 or fix --label.split"
            raise InputError(f"{storage.uri('labels')}: no picture in the split {split}; {hint}")
        if split == "train" and target.kind in ("binary", "classes") and len(found) < 2:
            raise InputError(
                f"{storage.uri('labels')}: all training pictures are {found.pop()!r}; labels {target.names} are needed"
            )


def _drop_stale(storage: Storage, inputs: dict[str, str]) -> None:
    # Pictures decoded from replaced labels or images are of no use and need as much room as the data set.
    for name in {path.split("/")[0] for path in storage.files(TENSORS)}:
        table = f"{TENSORS}/{name}"
        found = tables.find_record(storage, table) or _unfinished(storage, table)
        if found is not None and (found.inputs != inputs or found.config.get("layout") != _LAYOUT):
            storage.delete_directory(table)


def _unfinished(storage: Storage, table: str) -> Claim | None:
    """The claim of an interrupted decoding. None if there is none, it cannot be read, or its process still runs."""
    try:
        return claims.read(storage, table).claim
    except StageError:
        return None


def _decode(config: Config, writer: TableWriter, labelled: pa.Table) -> Counter[str]:
    import ray

    paths = tables.data_paths(writer.storage, "images")
    done = writer.units_done()
    counts: Counter[str] = Counter()
    for unit in sorted(done):
        staged = tables.read_staged(writer, unit, ["split", "label", "error"])
        counts.update(_count(staged))
    units = [{"unit": f"{i:05d}", "path": path} for i, path in enumerate(paths) if f"{i:05d}" not in done]
    with Progress("Decoding", len(labelled), "pictures") as progress:
        progress.advance(sum(counts.values()))
        if units:
            wanted = ray.put(labelled)
            size = config.train.image_size
            rows = ray.data.from_items(units, override_num_blocks=len(units)).map(
                _decode_file,
                fn_kwargs={"writer": writer, "wanted": wanted, "size": size},
                # By default, Ray retries for ever.
                max_retries=_RETRIES,
            )
            for row in rows.iter_rows():
                found = Counter(json.loads(row["counts"]))
                counts.update(found)
                progress.advance(sum(found.values()))
    return counts


def _decode_file(row: dict[str, Any], writer: TableWriter, wanted: Any, size: int) -> dict[str, Any]:
    """Decode and stage the labelled pictures of one file of images/, in a Ray task.

    A retry decodes them in a child process, because a picture may have crashed the worker of the first attempt.
    """
    import ray

    from raypipe.ingest.ray_workers import task_attempt

    labelled: pa.Table = ray.get(wanted)
    found = read_parquet(row["path"], writer.storage.filesystem, ["post_id", "image"])
    # Joined by index, because Acero's join does not support lists of hashtags.
    place = pc.index_in(found["post_id"], value_set=labelled["post_id"].combine_chunks())
    kept = pc.and_(pc.is_valid(place), pc.is_valid(found["image"]))
    found, rows = found.filter(kept), labelled.take(place.filter(kept))
    pixels = np.empty((len(found), 3, size, size), np.uint8)
    places: list[int | None] = []
    errors: list[str | None] = []
    n_decoded = 0
    with picture_decoder(partial(decode_square, side=size), isolated=task_attempt() > 0) as decode:
        for image in found["image"]:
            result = decode(image.as_py())
            if isinstance(result, Undecodable):
                places.append(None)
                errors.append(result.reason)
                continue
            pixels[n_decoded] = result
            places.append(n_decoded)
            errors.append(None)
            n_decoded += 1
    name = f"pixels-{writer.run_id}-{row['unit']}.npy"
    # Written before the rows that point to it: if the rows exist, the file exists.
    writer.write_file(name, to_npy(pixels[:n_decoded]))
    table = rows.select(["post_id", "split", "label"])
    table = table.append_column("shard", pa.array([name] * len(table), pa.string()))
    table = table.append_column("place", pa.array(places, pa.int32()))
    table = table.append_column("error", pa.array(errors, pa.string()))
    writer.write(row["unit"], table)
    return {"counts": json.dumps(_count(table))}


def _count(table: pa.Table) -> Counter[str]:
    """Number of pictures by split and class. Tags and scores count as one class."""
    named = pa.types.is_string(table.schema.field("label").type)
    labels = table["label"].to_pylist() if named else [""] * len(table)
    keys = zip(table["split"].to_pylist(), labels, table["error"].to_pylist(), strict=True)
    return Counter("undecodable" if error else f"{split}/{label}" for split, label, error in keys)
