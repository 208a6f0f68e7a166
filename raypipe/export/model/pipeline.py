"""``raypipe export --format model``: a trained model's weights and graphs, checked on real pictures, and its card."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import cached_property
from importlib import metadata

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch.export import ExportedProgram

from raypipe import tables
from raypipe.config import Config
from raypipe.export.model import about, graph
from raypipe.export.model.card import Exported, model_card
from raypipe.export.model.check import Agreement, compare, validation_sample
from raypipe.export.model.library import recipe
from raypipe.export.model.origin import find_origin
from raypipe.predict.model import TrainedModel, checkpoint_metadata, read_checkpoint
from raypipe.progress import Progress, say
from raypipe.tables import TableRun
from raypipe.tables.record import RunRecord
from raypipe.tables.root_tables import RootTables
from raypipe.train.networks.heads import Predictions
from raypipe.train.networks.weights import VGG16

WEIGHTS, CONFIG, PT2, ONNX, CARD = "model.safetensors", "config.json", "model.pt2", "model.onnx", "README.md"


def run(config: Config, table: str) -> RunRecord:
    """Write `table` from a trained model. Its rows are the labelled validation pictures used to check the files.

    Raises ConfigError or InputError if there is no such model or no validation picture, or if ONNX is requested without
    its packages. Raises StageError if a file's answers differ from the model's; nothing is left of the table then.
    """
    options, storage = config.export, config.open_storage()
    with_onnx = graph.wants_onnx(options.onnx)
    name, data = read_checkpoint(storage, options.model, "export.model")
    model = TrainedModel.from_bytes(data, name)
    labels, images = tables.get_record(storage, "labels"), tables.get_record(storage, "images")
    inputs = {"model": hashlib.sha256(data).hexdigest(), "labels": labels.run_id, "images": images.run_id}
    settings = {"export": {"format": "model", "onnx": with_onnx, "check": options.check}}
    with tables.begin(
        storage, table, command="export", config=settings, inputs=inputs, overwrite=config.overwrite
    ) as run_:
        if run_.record is not None:
            return run_.record
        try:
            record = _Export(config, run_, model, name, data).write(with_onnx=with_onnx)
        except graph.GraphError:
            # A wrong file must not be reused by the next attempt.
            storage.delete_directory(run_.writer.staging)
            raise
    for item in record.facts["checked"]:
        say(f"  {item['file']} {Agreement(**item).finding}")
    if not with_onnx and options.onnx is None:
        say(f"  model.onnx is left out: it needs {', '.join(graph.missing_packages())}: {graph.INSTALL}")
    size = sum(file.n_bytes for file in record.files)
    say(f"{len(record.files)} files, {size / 1e6:,.0f} MB: {storage.uri(table)}")
    return record


class _Export:
    """One export. Each file is staged, unless an interrupted attempt staged it. Then it is read back and compared."""

    def __init__(self, config: Config, run_: TableRun, model: TrainedModel, name: str, data: bytes) -> None:
        self.run, self.model, self.name, self.data = run_, model, name, data
        self.root_tables = RootTables.open(config.open_storage())
        self.sample = validation_sample(self.root_tables, model.image_size, config.export.check)
        self.expected = model.predictions(self.sample.pictures)
        kept = checkpoint_metadata(data)
        self.origin = find_origin(self.root_tables, config.export.model, name)
        self.recipe = recipe(model, kept.get("model", VGG16))
        self.about = about.as_config(model, kept, self.origin, self.recipe)
        self.metadata = about.exported_metadata(kept, self.origin)

    def write(self, *, with_onnx: bool) -> RunRecord:
        """Stage and check the files, the card last, and commit them. Returns the record."""
        started = time.monotonic()
        output, described = about.output_name(self.model.head.target), about.as_bytes(self.about)
        with Progress("Exporting", 4 if with_onnx else 3, "files") as progress:
            checked = [self._checked(WEIGHTS, "raypipe", self._weights, self._run_weights)]
            progress.advance()
            checked.append(self._checked(PT2, "torch", lambda: graph.to_pt2(self._program, described), graph.run_pt2))
            progress.advance()
            if with_onnx:
                checked.append(
                    self._checked(
                        ONNX, "onnxruntime", lambda: graph.to_onnx(self._program, output, described), graph.run_onnx
                    )
                )
                progress.advance()
            self.run.writer.write_file(CONFIG, described)
            card = model_card(Exported(self.model, self.about, self.origin, self.recipe, checked), self.root_tables)
            self.run.writer.write_file(CARD, card)
            progress.advance()
        target = self.model.head.target
        return self.run.commit(
            rows_in=self.sample.rows_in,
            rows_out=len(self.sample.pictures),
            dropped=self.sample.dropped,
            seconds={"export": time.monotonic() - started},
            facts={
                "format": "model",
                "model": self.name,
                "network": self.about["model"],
                "configuration": self.model.configuration,
                "head": target.kind,
                "classes": list(target.names),
                "checked": [item.as_json() for item in checked],
            },
        )

    def _checked(
        self,
        file: str,
        package: str,
        make: Callable[[], bytes],
        run: Callable[[bytes, NDArray[np.uint8]], Predictions],
    ) -> Agreement:
        writer = self.run.writer
        path = f"{writer.staging}/{file}"
        if not writer.storage.exists(path):
            writer.write_file(file, make())
        found = run(writer.storage.read(path), self.sample.pictures)
        reader = f"{package} {metadata.version(package)}"
        return compare(file, reader, self.model.head, self.expected, found)

    def _weights(self) -> bytes:
        return save(load(self.data), self.metadata)

    @staticmethod
    def _run_weights(data: bytes, pictures: NDArray[np.uint8]) -> Predictions:
        return TrainedModel.from_bytes(data, WEIGHTS).predictions(pictures)

    @cached_property
    def _program(self) -> ExportedProgram:
        return graph.trace(self.model)
