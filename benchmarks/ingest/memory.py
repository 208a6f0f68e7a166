"""Memory of `raypipe ingest` between the 5th and the 50th thousand picture, summed over all of its processes.

PSS (shared pages divided among the processes that share them) is sampled while pictures are fetched. The number of
pictures at each moment comes from the rows' `fetched_at`. A line is fitted through the samples in this window. Memory
is called flat if the line rises over the window by at most twice the standard deviation of the samples around it. Such
a rise cannot be distinguished from the variation between batches.
"""

from __future__ import annotations

import argparse
import os
import sys
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pictures, processes, results, web
from benchmarks.ingest import clients

_PER = 10_000


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    runs: list[dict[str, Any]] = []
    with results.work_folder(given.work) as work:
        served = pictures.photos(work, given.images)
        port = web.free_port()
        urls = [f"http://127.0.0.1:{port}/{pictures.path_of(number)}" for number in range(given.images)]
        posts = pictures.write_posts(work / "posts.parquet", [str(number) for number in range(given.images)], urls)
        with web.nginx(work / "nginx", web.server(served, ["127.0.0.1"], port), ("127.0.0.1", port)):
            web.warm(served)
            for number in range(given.runs):
                for way in given.ways:
                    runs.append({"way": way, "round": number, **_measured(given, way, work, posts, port)})
                    print(_line(runs[-1]), flush=True)
    _report(given, runs)
    return 0


def _arguments() -> argparse.Namespace:
    made = results.parser(__doc__, 60_000)
    made.add_argument("--start", type=int, default=5_000, help="pictures done at the start of the window")
    made.add_argument("--stop", type=int, default=50_000, help="pictures done at its end")
    made.add_argument("--every", type=float, default=0.5, help="seconds between samples")
    made.add_argument("--ways", type=clients.ways, default="defaults,on_ray", help=f"some of {', '.join(clients.WAYS)}")
    made.add_argument("--per-host", type=int, default=64, help="requests at a time to the host (not for defaults)")
    made.add_argument("--fan-out", type=int, default=256, help="requests at a time (not for defaults)")
    given = made.parse_args()
    if not given.start < given.stop < given.images:
        raise SystemExit(
            f"--start {given.start}, --stop {given.stop}, --images {given.images}: each must exceed the one before"
        )
    return given


def _measured(given: argparse.Namespace, way: str, work: Path, posts: Path, port: int) -> dict[str, Any]:
    root = work / "output-raypipe"
    clients.clear(root)
    os.sync()
    command = clients.raypipe(
        posts, root, [port], per_host=given.per_host, fan_out=given.fan_out, more=given.raypipe, way=way
    )
    usage = processes.run(command, cwd=work, log=work / "log.txt", every=given.every)
    at = clients.when_fetched(root)
    clients.clear(root)
    window = [
        (done, sample)
        for done, sample in ((bisect_right(at, sample.at), sample) for sample in usage.samples)
        if given.start <= done <= given.stop
    ]
    if len(window) < 5:
        raise SystemExit(f"{len(window)} samples from picture {given.start} to {given.stop}; set more --images")
    done = [n for n, _ in window]

    def fitted(value: Callable[[processes.Sample], float]) -> dict[str, float]:
        return fit(done, [value(sample) for _, sample in window])

    names = {name for _, sample in window for name in sample.by_name}
    parts = {
        "all": fitted(lambda sample: sample.pss),
        "private": fitted(lambda sample: sample.anonymous),
        "shared memory": fitted(lambda sample: sample.shared),
        **{name: _of(fitted, name) for name in sorted(names)},
    }
    half = len(window) // 2
    return {
        **results.numbers_of(usage, given.images),
        "ok": len(at),
        "samples_in_window": len(window),
        "parts": dict(
            sorted(((n, p) for n, p in parts.items() if p["mean_mb"] >= 1), key=lambda item: -item[1]["mean_mb"])
        ),
        "second_half": fit(done[half:], [sample.pss for _, sample in window[half:]]),
        "samples": [{"done": n, "pss_mb": s.pss, "private_mb": s.anonymous, "shared_mb": s.shared} for n, s in window],
    }


def _of(fitted: Callable[[Callable[[processes.Sample], float]], dict[str, float]], name: str) -> dict[str, float]:
    return fitted(lambda sample: sample.by_name.get(name, 0.0))


def fit(done: list[int], megabytes: list[float]) -> dict[str, float]:
    """Fit a line through megabytes over pictures done. Returns the growth per 10,000 pictures and over the window, the
    standard deviation around the line, and the mean, all in megabytes.
    """
    x, y = np.asarray(done, dtype=float), np.asarray(megabytes, dtype=float)
    slope, intercept = np.polyfit(x, y, 1)
    about = float(np.std(y - (slope * x + intercept), ddof=2))
    growth = float(slope * (x.max() - x.min()))
    return {"mb_per_10000": float(slope) * _PER, "growth_mb": growth, "deviation_mb": about, "mean_mb": float(y.mean())}


def flat(part: dict[str, float]) -> bool:
    """Whether the growth is at most twice the deviation of the samples around the line."""
    return part["growth_mb"] <= 2 * part["deviation_mb"]


def _line(run: dict[str, Any]) -> str:
    total, later = run["parts"]["all"], run["second_half"]
    return (
        f"{run['round'] + 1} {run['way']}: {total['mean_mb']:,.0f} MB, {total['mb_per_10000']:+.2f} MB per 10,000 "
        f"({later['mb_per_10000']:+.2f} in the second half), {total['growth_mb']:+.1f} MB over the window, "
        f"deviation {total['deviation_mb']:.1f} MB, {run['samples_in_window']} samples: "
        f"{'flat' if flat(total) else 'growing'}"
    )


def _report(given: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    summary, goals = {}, []
    for way in given.ways:
        mine = [run for run in runs if run["way"] == way]
        summary[way] = _shown(way, mine)
        growth, deviation = (
            results.spread([run["parts"]["all"][key] for run in mine])["median"]
            for key in ("growth_mb", "deviation_mb")
        )
        text = f"{way}: growth in MB from picture {given.start:,} to {given.stop:,}"
        goals.append(results.goal(text, growth, 2 * deviation, at_least=False))
        print(results.said(goals[-1]))
    content: dict[str, Any] = {
        "configuration": {
            key: getattr(given, key)
            for key in ("images", "runs", "start", "stop", "every", "per_host", "fan_out", "ways", "raypipe")
        },
        "summary": summary,
        "goals": goals,
        "runs": runs,
    }
    print(results.write(given.results, "memory", content).name)


def _shown(way: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the processes of a way as a table. Returns their spreads."""
    names = list(dict.fromkeys(name for run in runs for name in run["parts"]))

    def values(name: str, key: str) -> list[float]:
        return [run["parts"].get(name, _NONE)[key] for run in runs]

    rows = [
        {
            f"processes, {way}": name,
            "PSS, MB": results.shown(values(name, "mean_mb")),
            "MB per 10,000 pictures": results.shown(values(name, "mb_per_10000"), 2),
            "over the window, MB": results.shown(values(name, "growth_mb"), 1),
            "deviation, MB": results.shown(values(name, "deviation_mb"), 1),
        }
        for name in names
    ]
    print("\n" + results.table(rows))
    return {
        name: {key: results.spread(values(name, key)) for key in ("mean_mb", "mb_per_10000", "growth_mb")}
        for name in names
    }


_NONE = {"mb_per_10000": 0.0, "growth_mb": 0.0, "deviation_mb": 0.0, "mean_mb": 0.0}


if __name__ == "__main__":
    sys.exit(main())
