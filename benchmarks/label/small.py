"""`raypipe label` of as many posts as the paper had (200,545), beside a plain script of pandas and statsmodels.

Both run as whole commands, from the shell to the written table. The time without imports is given too. raypipe also
runs on Ray, to show what Ray costs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks import processes, results
from benchmarks.label import posts

_PEER = Path(__file__).with_name("plain_script.py")
_GOAL = 3.0
_KINDS = ("plain script", "raypipe", "raypipe on Ray")


def main() -> int:
    """Measure, print, write."""
    made = results.parser(__doc__, 200_545)
    given = made.parse_args()
    runs: list[dict[str, Any]] = []
    with results.work_folder(given.work) as work:
        root = work / f"posts-{given.images}"
        posts.write(root, given.images)
        for number in range(given.runs):
            for kind in _KINDS:
                runs.append({"round": number, "kind": kind, **_measured(kind, root, work)})
                print(_line(runs[-1]), flush=True)
    _report(given, runs)
    return 0


def _measured(kind: str, root: Path, work: Path) -> dict[str, Any]:
    output, log = work / "plain.parquet", work / "log.txt"
    shutil.rmtree(root / "labels", ignore_errors=True)
    command = [sys.executable, str(_PEER), str(root / "posts"), str(output)]
    if kind != "plain script":
        words = ["label", "--root", str(root), "--label.eligible", "post", "--ray.dashboard", "false"]
        command = [sys.executable, "-m", "raypipe", *words, "--label.on_ray", str(kind == "raypipe on Ray").lower()]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    usage = processes.run(command, cwd=results.REPOSITORY, log=log, env=environment, every=0.2)
    if kind == "plain script":
        said = json.loads(log.read_text().splitlines()[-1])
    else:
        record = json.loads((root / "labels" / "_run.json").read_text())
        said = {"seconds": sum(record["seconds"].values()), "steps": record["seconds"]}
    return {**said, "wall_s": usage.wall, "cpu_s": usage.cpu, "peak_pss_mb": usage.peak_pss}


def _line(run: dict[str, Any]) -> str:
    return f"{run['round'] + 1} {run['kind']}: {run['wall_s']:.2f} s, without imports {run['seconds']:.2f} s"


def _report(given: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    def values(kind: str, key: str) -> list[float]:
        return [run[key] for run in runs if run["kind"] == kind]

    rows = [
        {
            "what": kind,
            "whole command, s": results.shown(values(kind, "wall_s"), 2),
            "without imports, s": results.shown(values(kind, "seconds"), 2),
            "CPU-s": results.shown(values(kind, "cpu_s"), 1),
            "MB": results.shown(values(kind, "peak_pss_mb")),
        }
        for kind in _KINDS
    ]
    print("\n" + results.table(rows))
    goals = []
    for key, what in (("wall_s", "whole command"), ("seconds", "without imports")):
        ours, theirs = (results.spread(values(kind, key))["median"] for kind in ("raypipe", "plain script"))
        text = f"seconds of {given.images:,} posts, divided by the plain script's, {what}"
        goals.append(results.goal(text, ours / theirs, _GOAL, at_least=False))
        print(results.said(goals[-1]))
    content = {
        "configuration": {"posts": given.images, "runs": given.runs},
        "summary": {
            kind: {key: results.spread(values(kind, key)) for key in ("wall_s", "seconds", "cpu_s", "peak_pss_mb")}
            for kind in _KINDS
        },
        "goals": goals,
        "runs": runs,
    }
    print(results.write(given.results, "small", content, subject="label").name)


if __name__ == "__main__":
    sys.exit(main())
