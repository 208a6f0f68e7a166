"""`raypipe label` of 1, 10 and 100 million generated posts, against DuckDB doing the same in SQL.

Both programs do two jobs with the same number of threads. The fit gives the coefficients (DuckDB: the cross-products of
the normal equations). `label` is the fit with all its statistics, scores, exact deciles, a stratified split and the
written table. Memory is the highest sum of PSS. With pictures, only raypipe keeps equal ones on one side of the split.
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

_PEER = Path(__file__).with_name("duckdb_peer.py")
_FIT_GOAL, _LABEL_GOAL, _MEMORY_GOAL_MB = 4.0, 3.0, 6_000.0


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    runs: list[dict[str, Any]] = []
    with results.work_folder(given.work) as work:
        for n in given.sizes:
            root = work / f"{'pictures' if given.pictures else 'posts'}-{n}"
            posts.write(root, n, given.pictures)
            for number in range(given.runs):
                for kind in ("raypipe fit", "duckdb fit", "raypipe label", "duckdb label"):
                    if kind.startswith("duckdb") and not given.duckdb:
                        continue
                    runs.append({"posts": n, "round": number, "kind": kind, **_measured(given, kind, root, work)})
                    print(_line(runs[-1]), flush=True)
    _report(given, runs)
    return 0


def _arguments() -> argparse.Namespace:
    made = results.parser(__doc__, 0)
    made.add_argument(
        "--sizes", type=lambda text: [int(float(word)) for word in text.split(",")], default="1e6,1e7,1e8"
    )
    made.add_argument(
        "--pictures", action="store_true", help="label only posts with one face in their picture; also reads images/"
    )
    made.add_argument("--duckdb", type=Path, help="a Python with duckdb; without it, DuckDB is left out")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--duckdb-memory", type=int, default=16, help="GB that DuckDB may use; the rest goes to disk")
    return made.parse_args()


def _measured(given: argparse.Namespace, kind: str, root: Path, work: Path) -> dict[str, Any]:
    output, log = work / "duckdb.parquet", work / "log.txt"
    program, job = kind.split()
    eligible = "one_face" if given.pictures else "post"
    if program == "duckdb":
        glob = f"{root}/posts/*.parquet"
        peer = [given.duckdb, _PEER, job, glob, output, given.threads, given.duckdb_memory]
        peer += [f"{root}/images/*.parquet"] if given.pictures else []
        command = [str(word) for word in peer]
    elif job == "fit":
        command = [sys.executable, "-m", "benchmarks.label.fit_only", str(root), str(given.threads), eligible]
    else:
        shutil.rmtree(root / "labels", ignore_errors=True)
        words = ["label", "--root", str(root), "--label.eligible", eligible, "--ray.num_cpus", str(given.threads)]
        command = [sys.executable, "-m", "raypipe", *words]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    usage = processes.run(command, cwd=results.REPOSITORY, log=log, env=environment, every=0.2)
    said: dict[str, Any] = {}
    if kind != "raypipe label":
        said = json.loads(log.read_text().splitlines()[-1])
    else:
        record = json.loads((root / "labels" / "_run.json").read_text())
        said = {"label_s": sum(record["seconds"].values()), "steps": record["seconds"], "facts": record["facts"]}
    output.unlink(missing_ok=True)
    return {
        "seconds": said[f"{job}_s"],
        "wall_s": usage.wall,
        "cpu_s": usage.cpu,
        "peak_pss_mb": usage.peak_pss,
        "machine_busy_cpu_s": usage.machine_busy,
        **{key: value for key, value in said.items() if key not in ("fit_s", "label_s")},
    }


def _line(run: dict[str, Any]) -> str:
    return (
        f"{run['posts']:,} {run['round'] + 1} {run['kind']}: {run['seconds']:.2f} s, command {run['wall_s']:.2f} s, "
        f"{run['cpu_s']:.1f} CPU-s, {run['peak_pss_mb']:,.0f} MB"
    )


def _report(given: argparse.Namespace, runs: list[dict[str, Any]]) -> None:
    def values(n: int, kind: str, key: str = "seconds") -> list[float]:
        return [run[key] for run in runs if (run["posts"], run["kind"]) == (n, kind)]

    kinds = list(dict.fromkeys(run["kind"] for run in runs))
    rows = [
        {"posts": f"{n:,}"}
        | {f"{kind}, s": results.shown(values(n, kind), 2) for kind in kinds}
        | {"raypipe label, MB": results.shown(values(n, "raypipe label", "peak_pss_mb"))}
        for n in given.sizes
    ]
    print("\n" + results.table(rows))
    largest = max(given.sizes)

    def median(kind: str, key: str = "seconds") -> float:
        return results.spread(values(largest, kind, key))["median"]

    memory = median("raypipe label", "peak_pss_mb")
    goals = [results.goal(f"MB of label at {largest:,} posts", memory, _MEMORY_GOAL_MB, at_least=False)]
    if given.duckdb:
        for job, wanted in (("fit", _FIT_GOAL), ("label", _LABEL_GOAL)):
            ratio = median(f"raypipe {job}") / median(f"duckdb {job}")
            text = f"seconds of the {job} of {largest:,} posts, divided by DuckDB's"
            goals.append(results.goal(text, ratio, wanted, at_least=False))
    for found in goals:
        print(results.said(found))
    content = {
        "configuration": {
            "eligible": "one_face" if given.pictures else "post",
            "sizes": given.sizes,
            "runs": given.runs,
            "threads": given.threads,
            "duckdb_memory_gb": given.duckdb_memory,
        },
        "summary": {f"{n} {kind}": results.spread(values(n, kind)) for n in given.sizes for kind in kinds},
        "goals": goals,
        "runs": runs,
    }
    print(results.write(given.results, "scale_one_face" if given.pictures else "scale", content, subject="label").name)


if __name__ == "__main__":
    sys.exit(main())
