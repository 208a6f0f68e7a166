"""The one typed configuration. A YAML file, the command line and Python set its values.

Every option has a default and a description with its unit. A mark shows that the result of a stage does not depend on
an option (number of actors, port of the dashboard). Such options may change between an interrupted run and its resume.
"""

from __future__ import annotations

from typing import Any

from raypipe.config.base import AnyPath, Section, option
from raypipe.config.data_options import (
    CollectOptions,
    ColumnOptions,
    DoctorOptions,
    ExportOptions,
    FaceOptions,
    IngestOptions,
    RayOptions,
    StorageOptions,
    WorldOptions,
)
from raypipe.config.learning_options import (
    BoardOptions,
    JudgeOptions,
    LabelOptions,
    PredictOptions,
    ReportOptions,
    StudyOptions,
    SweepOptions,
    TrainOptions,
)
from raypipe.storage import Storage
from raypipe.storage.scratch import Scratch


class Config(Section):
    """All options of a run."""

    root: AnyPath = option("run", "directory or URI (s3://, gs://) of all tables of the run", result=False)
    seed: int = option(0, "seed of all random numbers", ge=0)
    posts: AnyPath | None = option(None, "posts to ingest: Parquet, CSV or JSONL, a file or directory")
    limit: int | None = option(None, "maximum number of posts to read", ge=1)
    overwrite: bool = option(False, "replace results of another configuration or another input", result=False)
    debug: bool = option(False, "show tracebacks", result=False)
    storage: StorageOptions = StorageOptions()
    ray: RayOptions = RayOptions()
    world: WorldOptions = WorldOptions()
    collect: CollectOptions = CollectOptions()
    columns: ColumnOptions = ColumnOptions()
    ingest: IngestOptions = IngestOptions()
    faces: FaceOptions = FaceOptions()
    label: LabelOptions = LabelOptions()
    judge: JudgeOptions = JudgeOptions()
    train: TrainOptions = TrainOptions()
    sweep: SweepOptions = SweepOptions()
    predict: PredictOptions = PredictOptions()
    report: ReportOptions = ReportOptions()
    study: StudyOptions = StudyOptions()
    export: ExportOptions = ExportOptions()
    board: BoardOptions = BoardOptions()
    doctor: DoctorOptions = DoctorOptions()

    def open_storage(self) -> Storage:
        """The storage of `root`."""
        options = self.storage
        scratch = Scratch(options.scratch, options.scratch_gb)
        return Storage(self.root, options.endpoint, options.region, options.profile, scratch)

    def result_options(self, *names: str) -> dict[str, Any]:
        """The options, of the named sections or at top level, that a stage's result depends on, as JSON types."""
        return {name: _result_part(getattr(self, name)) for name in names}


def _result_part(value: Any) -> Any:
    if not isinstance(value, Section):
        return value
    fields = type(value).model_fields
    kept = {name for name, info in fields.items() if (info.json_schema_extra or {}).get("result", True)}  # type: ignore[union-attr]
    return value.model_dump(mode="json", include=kept)
