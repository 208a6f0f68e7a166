"""Fetching and counting faces: images per second of `raypipe ingest`, against bare processes that only count.

The bare processes, one per CPU, hold the same JPEG bytes in memory. They decode them with Pillow and call dlib's
frontal detector with `upsample` 1, without fetching and writing. raypipe's steady rate runs from the first staged batch
until workers begin to run out of batches. The rate of the whole command, with start and end, is given too. raypipe
runs with the default options, and on Ray in smaller batches.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import dlib
import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import pictures, processes, results, web
from benchmarks.ingest import clients
from raypipe.config.data_options import FaceOptions, IngestOptions

_GOAL, _GOAL_WHOLE = 0.95, 0.9
_UPSAMPLE = FaceOptions().upsample
_DEFAULT_BLOCK_ROWS = IngestOptions().block_rows


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    runs: list[dict[str, Any]] = []
    with results.work_folder(given.work) as work:
        served = pictures.faces(work, given.images)
        port = web.free_port()
        ids = [pictures.path_of(number) for number in range(given.images)]
        posts = pictures.write_posts(work / "posts.parquet", ids, [f"http://127.0.0.1:{port}/{path}" for path in ids])
        paths = [served / path for path in ids]
        with web.nginx(work / "nginx", web.server(served, ["127.0.0.1"], port), ("127.0.0.1", port)) as nginx:
            for number in range(given.runs):
                kinds = ["bare", *given.ways] if number % 2 else [*given.ways, "bare"]
                for kind in kinds:
                    os.sync()
                    busy = processes.machine_busy()
                    run = _bare(given, paths) if kind == "bare" else _raypipe(given, kind, work, posts, port, nginx)
                    run["machine_busy_cpu_s"] = processes.machine_busy() - busy
                    runs.append({"kind": kind, "round": number, **run})
                    print(_line(runs[-1]), flush=True)
    return _report(given, runs)


def _arguments() -> argparse.Namespace:
    made = results.parser(__doc__, 2_400)
    made.add_argument("--per-host", type=int, default=16, help="requests at a time to the host (not for defaults)")
    made.add_argument("--fan-out", type=int, default=256, help="raypipe's requests at a time (not for defaults)")
    made.add_argument("--block-rows", type=int, default=64, help="raypipe's pictures per batch (not for defaults)")
    made.add_argument("--ways", type=clients.ways, default="defaults,on_ray", help=f"some of {', '.join(clients.WAYS)}")
    made.add_argument("--workers", type=int, default=os.cpu_count(), help="bare processes")
    return made.parse_args()


def _bare(given: argparse.Namespace, paths: list[Path]) -> dict[str, Any]:
    """Each process gets an equal part of the pictures. Their rates are added, so that none waits for another."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(given.workers)
    answers: Any = context.Queue()
    parts = [paths[number :: given.workers] for number in range(given.workers)]
    started = time.monotonic()
    workers = [context.Process(target=_count_faces, args=(part, together, answers)) for part in parts]
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    counts = {path: n for part in found for path, n in part["counts"].items()}
    return {
        "images_per_s": sum(len(part["counts"]) / part["seconds"] for part in found),
        "seconds": [part["seconds"] for part in found],
        "cpu_s": sum(part["cpu"] for part in found),
        "wall_s": time.monotonic() - started,
        "pictures_with_faces": sum(n > 0 for n in counts.values()),
        "counts": counts,
    }


def _count_faces(paths: list[Path], together: Barrier, answers: Any) -> None:
    detector = dlib.get_frontal_face_detector()
    data = [path.read_bytes() for path in paths]
    counts = {}
    together.wait()
    started, cpu = time.monotonic(), time.process_time()
    for path, jpeg in zip(paths, data, strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        boxes, _, _ = detector.run(pixels, _UPSAMPLE, 0.0)
        counts["/".join(path.parts[-2:])] = len(boxes)
    answers.put({"seconds": time.monotonic() - started, "cpu": time.process_time() - cpu, "counts": counts})


def _raypipe(
    given: argparse.Namespace, way: str, work: Path, posts: Path, port: int, nginx: web.Nginx
) -> dict[str, Any]:
    root = work / "output-raypipe"
    clients.clear(root)
    block_rows = _DEFAULT_BLOCK_ROWS if way == "defaults" else given.block_rows
    more = given.raypipe if way == "defaults" else f"--ingest.block_rows {block_rows} {given.raypipe}"
    command = clients.raypipe(
        posts, root, [port], per_host=given.per_host, fan_out=given.fan_out, more=more, faces=True, way=way
    )
    staged, server = Staged(root, block_rows), nginx.cpu()
    with staged:
        usage = processes.run(command, cwd=work, log=work / "log.txt", every=10.0)
    table = pads.dataset(root / "images", format="parquet").to_table(["post_id", "status", "n_faces"])
    counts = dict(zip(table["post_id"].to_pylist(), table["n_faces"].to_pylist(), strict=True))
    at = clients.when_fetched(root)
    found = {
        **results.numbers_of(usage, given.images),
        **staged.steady(given.workers),
        "first_picture_s": at[0] - usage.started_at,
        "ok": table["status"].to_pylist().count("ok"),
        "nginx_cpu_s": nginx.cpu() - server,
        "raypipe_seconds": clients.record_of(root)["seconds"],
        "counts": counts,
    }
    clients.clear(root)
    return found


class Staged:
    """Records when each batch is staged during a run: ``with Staged(root, 64) as staged: …``."""

    def __init__(self, root: Path, block_rows: int) -> None:
        self._folder = root / "images" / "_staging"
        self._block_rows = block_rows
        self._stop = threading.Event()
        self._seen: dict[str, tuple[float, int]] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Staged:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def steady(self, workers: int) -> dict[str, Any]:
        """Images per second from the first staged batch to the last one before `workers` batches are left; and the
        seconds and images of this time. Raises SystemExit if too few batches were seen.
        """
        batches = sorted(self._seen.values())
        inner = batches[: len(batches) - workers]
        if len(inner) < 2:
            raise SystemExit(f"{len(batches)} batches were seen; set more --images or a smaller --block-rows")
        seconds = inner[-1][0] - inner[0][0]
        rows = sum(rows for _, rows in inner[1:])
        return {"steady_images_per_s": rows / seconds, "steady_s": seconds, "steady_images": rows}

    def _watch(self) -> None:
        # Looks rarely, because looking loads the measured machine. The time of a batch is its file's.
        while not self._stop.wait(2.0):
            for path in self._folder.rglob("*.parquet"):
                # A file larger than a batch holds merged batches.
                try:
                    if path.name not in self._seen and (rows := pq.read_metadata(path).num_rows) <= self._block_rows:
                        self._seen[path.name] = (path.stat().st_mtime, rows)
                except OSError:
                    continue


def _line(run: dict[str, Any]) -> str:
    steady = ""
    if run["kind"] != "bare":
        steady = f", {run['steady_images_per_s']:.2f} steady over {run['steady_s']:.0f} s"
    return (
        f"{run['round'] + 1} {run['kind']}: {run['images_per_s']:.2f} images/s{steady}, {run['wall_s']:.1f} s, "
        f"{run['cpu_s']:.1f} CPU-s, machine {run['machine_busy_cpu_s']:.1f}"
    )


def _report(given: argparse.Namespace, runs: list[dict[str, Any]]) -> int:
    counts = [run.pop("counts") for run in runs]
    same = all(found == counts[0] for found in counts)

    def values(kind: str, key: str) -> list[float]:
        return [run[key] for run in runs if run["kind"] == kind]

    rows = [{"what": "bare processes", "images/s": results.shown(values("bare", "images_per_s"), 2)}]
    median = results.spread(values("bare", "images_per_s"))["median"]
    goals = []
    for way in given.ways:
        for key, what, wanted in (
            ("steady_images_per_s", "steady", _GOAL),
            ("images_per_s", "whole command", _GOAL_WHOLE),
        ):
            rows.append({"what": f"raypipe, {way}, {what}", "images/s": results.shown(values(way, key), 2)})
            ratio = results.spread(values(way, key))["median"] / median
            goals.append(
                results.goal(f"{way}: images per second, {what}, divided by those of bare processes", ratio, wanted)
            )
    print("\n" + results.table(rows))
    for way in given.ways:
        print(f"{way}: first picture after {results.shown(values(way, 'first_picture_s'), 1)} s")
    print(f"counts are {'identical' if same else 'NOT identical'} in all runs")
    for found in goals:
        print(results.said(found))
    options = ("images", "runs", "per_host", "fan_out", "block_rows", "workers", "ways", "raypipe")
    content = {
        "configuration": {**{key: getattr(given, key) for key in options}, "upsample": _UPSAMPLE},
        "summary": {
            "bare": {"images_per_s": results.spread(values("bare", "images_per_s"))},
            **{
                way: {
                    key: results.spread(values(way, key))
                    for key in ("steady_images_per_s", "images_per_s", "wall_s", "cpu_s", "first_picture_s")
                }
                for way in given.ways
            },
        },
        "counts_identical": same,
        "goals": goals,
        "runs": runs,
    }
    print(results.write(given.results, "faces_rate", content).name)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
