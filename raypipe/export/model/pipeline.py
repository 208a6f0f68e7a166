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
from raypipe.export.model import config_json, graph
from raypipe.export.model.compare_files import OutputComparison, compare_outputs, validation_sample
from raypipe.export.model.model_card import ExportedModel, model_card
from raypipe.export.model.torchvision_recipe import torchvision_recipe
from raypipe.export.model.training_origin import find_origin
from raypipe.predict.model import TrainedModel, checkpoint_metadata, read_checkpoint
from raypipe.progress import Progress, print_line
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
            record = _ModelExport(config, run_, model, name, data).write(with_onnx=with_onnx)
        except graph.GraphError:
            # A wrong file must not be reused by the next attempt.
            storage.delete_directory(run_.writer.staging)
            raise
    for item in record.facts["checked"]:
        print_line(f"  {item['file']} {OutputComparison(**item).result_text}")
    if not with_onnx and options.onnx is None:
        print_line(f"  model.onnx is left out: it needs {', '.join(graph.missing_packages())}; {graph.INSTALL}")
    size = sum(file.n_bytes for file in record.files)
    print_line(f"{len(record.files)} files, {size / 1e6:,.0f} MB: {storage.uri(table)}")
    return record


class _ModelExport:
    """One export. Each file is staged, unless an interrupted attempt staged it. Then it is read back and compared."""

    def __init__(self, config: Config, run_: TableRun, model: TrainedModel, name: str, data: bytes) -> None:
        self.run, self.model, self.name, self.data = run_, model, name, data
        self.root_tables = RootTables.open(config.open_storage())
        self.sample = validation_sample(self.root_tables, model.image_size, config.export.check)
        self.expected = model.predictions(self.sample.pictures)
        weights_metadata = checkpoint_metadata(data)
        self.origin = find_origin(self.root_tables, config.export.model, name)
        self.torchvision_recipe = torchvision_recipe(model, weights_metadata.get("model", VGG16))
        self.about = config_json.config_dict(model, weights_metadata, self.origin, self.torchvision_recipe)
        self.metadata = config_json.exported_metadata(weights_metadata, self.origin)

    def write(self, *, with_onnx: bool) -> RunRecord:
        """Stage and check the files, the card last, and commit them. Returns the record."""
        started = time.monotonic()
        output, about = config_json.output_name(self.model.head.target), config_json.config_bytes(self.about)
        with Progress("Exporting", 4 if with_onnx else 3, "files") as progress:
            checked = [self._write_and_compare(WEIGHTS, "raypipe", self._weights, self._run_weights)]
            progress.advance()
            checked.append(
                self._write_and_compare(PT2, "torch", lambda: graph.to_pt2(self._program, about), graph.run_pt2)
            )
            progress.advance()
            if with_onnx:
                checked.append(
                    self._write_and_compare(
                        ONNX, "onnxruntime", lambda: graph.to_onnx(self._program, output, about), graph.run_onnx
                    )
                )
                progress.advance()
            self.run.writer.write_file(CONFIG, about)
            card = model_card(
                ExportedModel(self.model, self.about, self.origin, self.torchvision_recipe, checked), self.root_tables
            )
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

    def _write_and_compare(
        self,
        file: str,
        package: str,
        make: Callable[[], bytes],
        run: Callable[[bytes, NDArray[np.uint8]], Predictions],
    ) -> OutputComparison:
        writer = self.run.writer
        path = f"{writer.staging}/{file}"
        if not writer.storage.exists(path):
            writer.write_file(file, make())
        found = run(writer.storage.read(path), self.sample.pictures)
        reader = f"{package} {metadata.version(package)}"
        return compare_outputs(file, reader, self.model.head, self.expected, found)

    def _weights(self) -> bytes:
        return save(load(self.data), self.metadata)

    @staticmethod
    def _run_weights(data: bytes, pictures: NDArray[np.uint8]) -> Predictions:
        return TrainedModel.from_bytes(data, WEIGHTS).predictions(pictures)

    @cached_property
    def _program(self) -> ExportedProgram:
        return graph.trace(self.model)
