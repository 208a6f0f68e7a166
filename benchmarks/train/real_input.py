"""raypipe's training on real photographs of ants and bees, beside a plain torch script on the same split and seeds.

`time`: A over 12 epochs with one seed, both programs as whole commands, the plain script without a cache. `seeds`: A
with five seeds; the plain script computes features once and trains on them (the same numbers, see plain_script.py).
`table`: A to D at a smaller size, C and D with fresh FC layers, and B from A's weights. Each run is kept in --work, so
the same command continues after an interruption. --part selects any of the three parts.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from benchmarks import processes, results

_PEER = Path(__file__).with_name("plain_script.py")
_DATA = Path(os.environ.get("RAYPIPE_SHARED_DATA", results.REPOSITORY.parent / "shared" / "data"))
_GOAL_TIME = 0.2
_PARTS = ("time", "seeds", "table")
_Rows = list[dict[str, str]]
_AS_GIVEN = [
    *("--label.scheme", "column", "--label.column", "insect"),
    *("--label.split", "part", "--label.eligible", "image"),
]


def main() -> int:
    """Measure what is requested and not measured yet, print, write."""
    given = _arguments()
    with results.work_folder(given.work) as work:
        bench = _Bench(given, work)
        if "time" in given.part:
            bench.plain_in_full(0)
            bench.raypipe_a(0)
        if "seeds" in given.part:
            for seed in range(given.seeds):
                bench.plain_on_features(seed)
                bench.raypipe_a(seed)
        if "table" in given.part:
            bench.table()
        _report(given, bench.units())
    return 0


def _arguments() -> argparse.Namespace:
    made = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    made.add_argument("--work", type=Path, help="folder that keeps every run; default: temporary")
    made.add_argument("--results", type=Path, default=results.FOLDER, help="folder for the result file")
    made.add_argument("--pictures", type=Path, default=_DATA / "hymenoptera", help="{train,val}/CLASS/*.jpg")
    made.add_argument("--weights", type=Path, default=_DATA / "vgg16_notop.h5", help="convolutions, in Keras' format")
    made.add_argument("--part", type=lambda text: text.split(","), default=",".join(_PARTS))
    made.add_argument("--size", type=int, default=224, help="pixels of a side, for time and seeds")
    made.add_argument("--epochs", type=int, default=12, help="epochs of A")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--table-size", type=int, default=64, help="pixels of a side, for the table")
    made.add_argument("--table-epochs", default="A=12,B=5,C=5,D=8,BA=2", help="epochs; BA: B that starts from A")
    given = made.parse_args()
    if unknown := set(given.part) - set(_PARTS):
        raise SystemExit(f"--part: {', '.join(unknown)} is not one of {', '.join(_PARTS)}")
    for path in (given.pictures, given.weights):
        if not path.exists():
            raise SystemExit(f"{path}: does not exist; set --pictures and --weights (or RAYPIPE_SHARED_DATA)")
    return given


class _Bench:
    """Runs, each kept as a file in `work`/units."""

    def __init__(self, given: argparse.Namespace, work: Path) -> None:
        self.given, self.work = given, work
        self.root = work / "root"
        self.kept = work / "units"
        self.kept.mkdir(exist_ok=True)
        self.once("root", self._ingest)

    def once(self, name: str, run: Callable[[], dict[str, Any]]) -> None:
        """Run the unit `name`, unless its result is kept already."""
        path = self.kept / f"{name}.json"
        if path.exists():
            return
        found = run()
        path.write_text(json.dumps(found))
        print(f"{name}: {_line(found)}", flush=True)

    def units(self) -> dict[str, dict[str, Any]]:
        """All finished units by name."""
        return {path.stem: json.loads(path.read_text()) for path in sorted(self.kept.glob("*.json"))}

    def plain_in_full(self, seed: int) -> None:
        """The plain script as a person would run it."""
        self.once(f"plain-full-{seed}", lambda: self._plain(seed))

    def plain_on_features(self, seed: int) -> None:
        """The plain script on features computed by the first seed's run."""
        features = self.work / f"features-{self.given.size}.pt"
        self.once(f"plain-{seed}", lambda: self._plain(seed, "--features", str(features)))

    def raypipe_a(self, seed: int) -> None:
        """`raypipe train` of A."""
        self.once(f"raypipe-A-{seed}", lambda: self._train(f"A-{self.given.size}-{seed}", "A", seed=seed))

    def table(self) -> None:
        """A to D at the smaller size, and B from A's layer, at a tenth of the learning rate.

        A run that fails because its loss is no longer finite is a result too.
        """
        epochs = {name: int(n) for name, n in (item.split("=") for item in self.given.table_epochs.split(","))}
        side = {"size": self.given.table_size}
        for letter in (name for name in epochs if name != "BA"):
            fresh = ["--train.fresh_fc", "true"] if letter in "CD" else []
            run = functools.partial(self._tried, f"{letter}-small", letter, *fresh, epochs=epochs[letter], **side)
            self.once(f"table-{letter}", run)
        if {"A", "BA"} <= epochs.keys():
            (start,) = (self.root / "train" / "A-small" / "checkpoints").glob("*/best.safetensors")
            slower = ["--train.learning_rate", "0.0001", "--train.weights", str(start)]
            run = functools.partial(self._tried, "B-from-A-small", "B", *slower, epochs=epochs["BA"], **side)
            self.once("table-BA", run)

    def _ingest(self) -> dict[str, Any]:
        # The port in the posts' addresses changes each time, so the output of an interrupted run does not fit.
        shutil.rmtree(self.root, ignore_errors=True)
        folder = self.given.pictures.resolve()
        files = sorted(folder.glob("*/*/*.jpg"))
        with _served(folder) as port:
            posts = {
                "post_id": [path.stem for path in files],
                "image_url": [f"http://127.0.0.1:{port}/{path.relative_to(folder)}" for path in files],
                "insect": [path.parent.name for path in files],
                "part": [path.parent.parent.name for path in files],
            }
            pa.csv.write_csv(pa.table(posts), self.work / "posts.csv")
            open_to = ["--ingest.allow_private", "--ingest.allow_ports", str(port), "--faces.enabled", "false"]
            usage = self._raypipe("ingest", "--posts", str(self.work / "posts.csv"), *open_to, *_AS_GIVEN)
        self._raypipe("label", *_AS_GIVEN)
        return {"wall_s": usage.wall, "pictures": len(files)}

    def _train(
        self, name: str, letter: str, *more: str, seed: int = 0, epochs: int | None = None, size: int | None = None
    ) -> dict[str, Any]:
        folder = self.root / "train" / name
        # Starts from nothing: without the output of an interrupted run and without pictures decoded by another run.
        for left in (folder, self.root / "_tensors"):
            shutil.rmtree(left, ignore_errors=True)
        size, epochs = size or self.given.size, epochs or self.given.epochs
        words = ["train", "--train.config", letter, "--train.name", name, "--seed", str(seed), "--train.save", "best"]
        if "--train.weights" not in more:
            words += ["--train.weights", str(self.given.weights.resolve())]
        usage = self._raypipe(*words, "--train.image_size", str(size), "--train.epochs", str(epochs), *more)
        record = json.loads((folder / "_run.json").read_text())
        rows = json.loads((folder / "results.json").read_text())
        return _numbers(usage, [row["val_accuracy"] for row in rows]) | {"steps_s": record["seconds"]}

    def _tried(self, *words: str, **more: Any) -> dict[str, Any]:
        try:
            return self._train(*words, **more)
        except processes.CommandFailedError as error:
            said = str(error).strip().splitlines()[-1]
            if "loss is" not in said:
                raise
            return {"failed": said}

    def _plain(self, seed: int, *more: str) -> dict[str, Any]:
        given, log = self.given, self.work / "plain.txt"
        options = ["--seed", str(seed), "--size", str(given.size), "--epochs", str(given.epochs), *more]
        command = [sys.executable, str(_PEER), str(given.pictures), str(given.weights), *options]
        usage = processes.run(command, cwd=results.REPOSITORY, log=log)
        said = json.loads(log.read_text().splitlines()[-1])
        accuracies = [epoch["val_accuracy"] for epoch in said["epochs"]]
        return _numbers(usage, accuracies) | {"steps_s": {"train": said["seconds"], "imports": said["import_s"]}}

    def _raypipe(self, command: str, *words: str) -> processes.Usage:
        line = [sys.executable, "-m", "raypipe", command, "--root", str(self.root), *words, "--ray.dashboard", "false"]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        return processes.run(line, cwd=results.REPOSITORY, log=self.work / f"{command}.txt", env=environment)


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[int]:
    """Serve the files of a folder on loopback while the body runs. Yields the port."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_words: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _numbers(usage: processes.Usage, accuracies: list[float]) -> dict[str, Any]:
    return {
        "wall_s": usage.wall,
        "cpu_s": usage.cpu,
        "others_cpu_s": usage.machine_busy - usage.cpu,
        "peak_pss_mb": usage.peak_pss,
        "val_accuracy": accuracies,
        "best": max(accuracies),
        "final": accuracies[-1],
    }


def _line(unit: dict[str, Any]) -> str:
    if "failed" in unit:
        return str(unit["failed"])
    accuracy = f", best {unit['best']:.3f}, last {unit['final']:.3f}" if "best" in unit else ""
    return f"{unit['wall_s']:.0f} s{accuracy}"


def _report(given: argparse.Namespace, units: dict[str, dict[str, Any]]) -> None:
    goals: list[dict[str, Any]] = []
    for rows, found in (_times(given, units), _seeds(given, units), (_small(given, units), [])):
        if rows:
            print("\n" + results.table(rows))
        goals += found
    print()
    for one in goals:
        print(results.said(one))
    keys = ("size", "epochs", "seeds", "table_size", "table_epochs")
    content = {"configuration": {key: getattr(given, key) for key in keys}, "goals": goals, "runs": units}
    print(results.write(given.results, "real_input", content, subject="train").name)


def _times(given: argparse.Namespace, units: dict[str, dict[str, Any]]) -> tuple[_Rows, list[dict[str, Any]]]:
    if not {"raypipe-A-0", "plain-full-0"} <= units.keys():
        return [], []
    ours, theirs = units["raypipe-A-0"], units["plain-full-0"]
    rows = [
        {
            f"A, {given.epochs} epochs at {given.size} pixels": name,
            "whole command, s": f"{unit['wall_s']:.0f}",
            "training alone, s": f"{unit['steps_s']['train']:.0f}",
            "CPU-s": f"{unit['cpu_s']:.0f}",
            "MB": f"{unit['peak_pss_mb']:,.0f}",
            "others' CPU-s": f"{unit['others_cpu_s']:.0f}",
            "best epoch": f"{unit['best']:.3f}",
        }
        for name, unit in (("raypipe", ours), ("plain script", theirs))
    ]
    text = f"seconds of A over {given.epochs} epochs, whole command, divided by the plain script's"
    return rows, [results.goal(text, ours["wall_s"] / theirs["wall_s"], _GOAL_TIME, at_least=False)]


def _seeds(given: argparse.Namespace, units: dict[str, dict[str, Any]]) -> tuple[_Rows, list[dict[str, Any]]]:
    seeds = [seed for seed in range(given.seeds) if {f"raypipe-A-{seed}", f"plain-{seed}"} <= units.keys()]
    if not seeds:
        return [], []
    programs = {"raypipe": "raypipe-A", "plain script": "plain"}
    found = {name: [units[f"{prefix}-{seed}"] for seed in seeds] for name, prefix in programs.items()}
    rows = [
        {
            f"A at {given.size} pixels, validation accuracy": name,
            **{f"seed {seed}": f"{unit['best']:.3f}" for seed, unit in zip(seeds, own, strict=True)},
            "best epoch, mean": f"{statistics.mean(unit['best'] for unit in own):.3f}",
            "last epoch, mean": f"{statistics.mean(unit['final'] for unit in own):.3f}",
        }
        for name, own in found.items()
    ]
    if len(seeds) < 2:
        return rows, []
    best = {name: [unit["best"] for unit in own] for name, own in found.items()}
    # Two standard errors of the difference of two means.
    noise = 2 * (sum(statistics.variance(values) for values in best.values()) / len(seeds)) ** 0.5
    less = statistics.mean(best["raypipe"]) - statistics.mean(best["plain script"])
    text = f"A's best validation accuracy minus the plain script's, means of {len(seeds)} seeds, within noise"
    return rows, [results.goal(text, less, -noise)]


def _small(given: argparse.Namespace, units: dict[str, dict[str, Any]]) -> _Rows:
    names = {"A": "A", "B": "B", "C": "C, FC layers fresh", "D": "D, FC layers fresh", "BA": "B from A, rate 0.0001"}
    rows = []
    for key in names:
        if unit := units.get(f"table-{key}"):
            failed = "failed" in unit
            best = "" if failed else f"{unit['best']:.3f} ({unit['val_accuracy'].index(unit['best']) + 1})"
            rows.append(
                {
                    f"{given.table_size} pixels, validation accuracy": names[key],
                    "best (epoch)": best or unit["failed"],
                    "last (epochs)": "–" if failed else f"{unit['final']:.3f} ({len(unit['val_accuracy'])})",
                    "whole command, s": "–" if failed else f"{unit['wall_s']:.0f}",
                }
            )
    return rows


if __name__ == "__main__":
    sys.exit(main())
