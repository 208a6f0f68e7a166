"""One file per picture: ``SPLIT/LABEL/KEY.jpg`` for classes, else ``SPLIT/KEY.jpg``; and ``SPLIT/metadata.jsonl``."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from raypipe.export.export_plan import ExportPlan
from raypipe.export.safe_names import folder_names
from raypipe.export.samples import ExportSample, json_line, read_samples
from raypipe.progress import Progress
from raypipe.tables import TableWriter

METADATA = "metadata.jsonl"

# Writers of small files mostly wait for the disk to flush or for the object store to answer.
_WRITERS = 8
_MAX_QUEUED = 64


def write_folder(writer: TableWriter, plan: ExportPlan, progress: Progress) -> int:
    """Stage the metadata and the pictures that are not staged yet. Returns the number of pictures in all."""
    staged = set(writer.storage.files(writer.staging))
    folders = folder_names(plan.classes)
    lines: dict[str, list[bytes]] = {split: [] for split in plan.splits}
    waiting: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(_WRITERS, "export")
    try:
        for sample in read_samples(writer.storage, plan, plan.is_exported):
            path = _path(sample, folders)
            lines[sample.split].append(json_line({"file_name": path, **sample.metadata_dict()}))
            if f"{sample.split}/{path}" not in staged:
                waiting.append(pool.submit(writer.write_file, f"{sample.split}/{path}", sample.image))
            if len(waiting) > _MAX_QUEUED:
                waiting.popleft().result()
            progress.advance()
        for done in waiting:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    for split, rows in lines.items():
        writer.write_file(f"{split}/{METADATA}", b"\n".join([*rows, b""]))
    return sum(len(rows) for rows in lines.values())


def _path(sample: ExportSample, folders: dict[str, str]) -> str:
    """The picture's path below its split, as Hugging Face's `file_name` and torchvision's class folders need it."""
    folder = f"{folders[sample.label]}/" if sample.code is not None and isinstance(sample.label, str) else ""
    return f"{folder}{sample.file_name}"
