"""The commands of raypipe: their help texts, modules and sections of options."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raypipe.config import Config


@dataclass(frozen=True)
class Stage:
    """One command: ``module:function`` that takes the configuration, a line of help, the sections of options it reads.

    `short` holds short names of options for this command: ``{"format": "export.format"}``.
    """

    target: str
    help: str
    sections: tuple[str, ...]
    short: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Callable[[Config], Any]:
        """Import the stage's function. Stages are imported only when used, so that `--help` is fast."""
        module, _, name = self.target.partition(":")
        function: Callable[[Config], Any] = getattr(importlib.import_module(module), name)
        return function


COMMON_SECTIONS = ("ray", "storage")
_RUN_SECTIONS = ("columns", "ingest", "faces", "label", "train", "sweep", "report")

STAGES = {
    "demo": Stage(
        "raypipe.run.demo:run",
        "all stages on a generated world, from posts to report, in minutes",
        ("world", *_RUN_SECTIONS),
    ),
    "world": Stage("raypipe.world.pipeline:run", "generate posts and portraits with known truth", ("world",)),
    "collect": Stage(
        "raypipe.collect.pipeline:run", "collect posts by hashtag, revisit them after 7 days", ("collect",)
    ),
    "ingest": Stage(
        "raypipe.ingest.pipeline:run", "check posts, fetch pictures, count faces", ("columns", "ingest", "faces")
    ),
    "label": Stage("raypipe.label.pipeline:run", "fit the regression, score, label the extremes, split", ("label",)),
    "judge": Stage(
        "raypipe.judge.pipeline:run",
        "measure how good the labels are: leaks, agreement, stability",
        ("judge",),
    ),
    "train": Stage("raypipe.train.sweep:run_train", "fine-tune VGG-16 in one configuration", ("train",)),
    "sweep": Stage("raypipe.train.sweep:run", "train configurations and seeds as Ray Tune trials", ("sweep", "train")),
    "predict": Stage("raypipe.predict.pipeline:run", "apply a trained model to pictures", ("predict",)),
    "report": Stage("raypipe.report.pipeline:run", "write one HTML page about all results", ("report",)),
    "study": Stage("raypipe.study.pipeline:run", "serve a web page on which people classify pictures", ("study",)),
    "export": Stage(
        "raypipe.export.pipeline:run",
        "pictures and labels, or a trained model, for other programs",
        ("export",),
        short={"format": "export.format"},
    ),
    "run": Stage("raypipe.run.pipeline:run", "run ingest, label, sweep and report", _RUN_SECTIONS),
    "board": Stage("raypipe.train.board:run", "show the trained models in TensorBoard", ("board",)),
    "doctor": Stage(
        "raypipe.doctor.pipeline:run",
        "check packages, GPUs, weights, storage, ports and disk",
        ("doctor", "train", "world", "study", "board"),
    ),
}


class _StageModule(types.ModuleType):
    """A stage's package that can be called: ``raypipe.label(config)``."""

    def __call__(self, config: Config) -> Any:
        return STAGES[self.__name__.rpartition(".")[2]].load()(config)


def make_callable(module: str) -> None:
    """Make the package of a stage callable as the stage itself."""
    sys.modules[module].__class__ = _StageModule
