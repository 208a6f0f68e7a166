"""Fetching alone: raypipe's images per second and per CPU second, against img2dataset and two reference points.

All clients get the same pictures, each with different bytes, from the same nginx on this machine. CPU seconds are those
of a command with all its daemons and workers, from start to end. Those of nginx and of other programs are listed too.
`raypipe` has the default options. `raypipe_tuned` makes as many requests at a time as the other clients.
`raypipe_on_ray` does the same on Ray.

The cost of a command's start is measured with a few pictures (`--start`); the rest is the cost of the pictures. The
order of clients changes from run to run, and output is deleted in between. img2dataset runs in the ways of
`clients.IMG2DATASET`; `img2dataset` is `resize_mode no` into Parquet without other options. Each file that the other
clients store is compared with the served file by its SHA-256.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import pictures, processes, results, web
from benchmarks.ingest import clients

RAYPIPE = {"raypipe": "defaults", "raypipe_tuned": "tuned", "raypipe_on_ray": "on_ray"}
TOOLS = (*RAYPIPE, *clients.IMG2DATASET, "plain_ray", "bare")
_KEEPS_BYTES = frozenset(TOOLS) - {"img2dataset", "bare"}
_GOAL_CPU, _STRETCH_CPU, _GOAL_WALL = 5.0, 8.0, 2.5


@dataclass(frozen=True)
class Tool:
    """A command, its output folder, and the function that reads the output (None if the command keeps nothing)."""

    command: list[str]
    output: Path
    read: Callable[[Path, dict[str, str]], clients.Stored] | None


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    with results.work_folder(given.work) as work:
        served = pictures.photos(work, given.images)
        port = web.free_port()
        with web.nginx(work / "nginx", web.server(served, ["127.0.0.1"], port), ("127.0.0.1", port)) as nginx:
            posts = _posts(work / "posts.parquet", port, given.images)
            few = _posts(work / "few.parquet", port, given.start)
            web.warm(served)
            if given.tune:
                return _tune(given, work, posts)
            names = [n for n in given.tools if n not in clients.IMG2DATASET or _has_peer(n, given.img2dataset)]
            digests = pictures.digests(served)
            runs: list[dict[str, Any]] = []
            for number in range(given.runs):
                turn = number % len(names)
                for name in names[turn:] + names[:turn]:
                    first = _tool(name, given, work, few, port)
                    clients.clear(first.output)
                    start = processes.run(first.command, cwd=work, log=work / "log.txt")
                    run = _measured(_tool(name, given, work, posts, port), work, nginx, digests)
                    run |= {"start_wall_s": start.wall, "start_cpu_s": start.cpu}
                    run["images_per_cpu_s_after_start"] = (given.images - given.start) / (run["cpu_s"] - start.cpu)
                    runs.append({"tool": name, "round": number, **run})
                    print(_line(runs[-1]), flush=True)
    _report(given, names, runs)
    short = [run for run in runs if run["ok"] != given.images]
    other = [run for run in runs if run["tool"] in _KEEPS_BYTES and run["same_bytes"] != given.images]
    return 1 if short or other else 0


def _arguments() -> argparse.Namespace:
    made = results.parser(__doc__, 48_000)
    made.add_argument("--tools", type=lambda text: text.split(","), default=list(TOOLS), help="clients to measure")
    made.add_argument("--per-host", type=int, default=64, help="requests at a time to the host, for raypipe and others")
    made.add_argument("--fan-out", type=int, default=256, help="raypipe's requests at a time")
    made.add_argument("--img2dataset", type=Path, help="its program, in its own environment; left out if not set")
    made.add_argument("--threads", type=int, default=32, help="img2dataset's thread_count")
    made.add_argument("--processes", type=int, default=os.cpu_count(), help="img2dataset's processes_count")
    made.add_argument("--per-shard", type=int, help="img2dataset's number_sample_per_shard; default: four per process")
    made.add_argument("--start", type=int, default=64, help="pictures for measuring the cost of a start")
    made.add_argument("--tune", action="store_true", help="only try img2dataset's thread_count at 16, 32, 64, 128, 256")
    given = made.parse_args()
    given.per_shard = given.per_shard or -(-given.images // (4 * given.processes))
    return given


def _has_peer(name: str, program: Path | None) -> bool:
    if program is not None and program.exists():
        return True
    print(f"{name} is left out: --img2dataset is not a program (python -m venv …, pip install img2dataset)")
    return False


def _posts(path: Path, port: int, images: int) -> Path:
    urls = [f"http://127.0.0.1:{port}/{pictures.path_of(number)}" for number in range(images)]
    return pictures.write_posts(path, [str(number) for number in range(images)], urls)


def _tool(name: str, given: argparse.Namespace, work: Path, posts: Path, port: int) -> Tool:
    output = work / f"output-{name}"
    at_a_time = str(given.per_host)
    match name:
        case _ if name in RAYPIPE:
            command = clients.raypipe(
                posts,
                output,
                [port],
                per_host=given.per_host,
                fan_out=given.fan_out,
                more=given.raypipe,
                way=RAYPIPE[name],
            )
            return Tool(command, output, clients.stored_by_raypipe)
        case _ if name in clients.IMG2DATASET:
            sizes = {"processes": given.processes, "per_shard": given.per_shard}
            command = clients.img2dataset(given.img2dataset, name, posts, output, threads=given.threads, **sizes)
            return Tool(command, output, clients.stored_by_img2dataset)
        case "plain_ray":
            command = [sys.executable, _script("plain_ray"), str(posts), str(output), at_a_time]
            return Tool(command, output, clients.stored_by_plain_ray)
        case "bare":
            return Tool([sys.executable, _script("bare_client"), str(posts), at_a_time], output, None)
    raise SystemExit(f"--tools: {name} is not one of {', '.join(TOOLS)}")


def _script(name: str) -> str:
    return str(Path(__file__).with_name(f"{name}.py"))


def _measured(tool: Tool, work: Path, nginx: web.Nginx, digests: dict[str, str]) -> dict[str, Any]:
    clients.clear(tool.output)
    os.sync()
    log, before = work / "log.txt", nginx.cpu()
    usage = processes.run(tool.command, cwd=work, log=log)
    server = nginx.cpu() - before
    others = usage.machine_busy - usage.cpu - server
    found = results.numbers_of(usage, len(digests)) | {"nginx_cpu_s": server, "others_cpu_s": others}
    if tool.read is None:
        return found | {"ok": json.loads(log.read_text())["pictures"], "same_bytes": None}
    stored = tool.read(tool.output, digests)
    ok = sum(stored.statuses.get(name, 0) for name in ("ok", "success"))
    found |= {"ok": ok, "same_bytes": stored.same_bytes, "statuses": stored.statuses}
    if tool.read is clients.stored_by_raypipe:
        at = clients.when_fetched(tool.output)
        fetching = at[-1] - at[0] if len(at) > 1 else float("nan")
        found |= {"fetching_s": fetching, "raypipe_seconds": clients.record_of(tool.output)["seconds"]}
    clients.clear(tool.output)
    return found


def _tune(given: argparse.Namespace, work: Path, posts: Path) -> int:
    output = work / "output-tune"
    sizes = {"processes": given.processes, "per_shard": given.per_shard}
    for way in (name for name in given.tools if name in clients.IMG2DATASET):
        for threads in (16, 32, 64, 128, 256):
            command = clients.img2dataset(given.img2dataset, way, posts, output, threads=threads, **sizes)
            usages = []
            for _ in range(given.runs):
                clients.clear(output)
                usages.append(processes.run(command, cwd=work, log=work / "log.txt"))
            wall = results.shown([given.images / usage.wall for usage in usages])
            cpu = results.shown([given.images / usage.cpu for usage in usages])
            print(f"{way} with {threads} threads: {wall} images/s, {cpu} images/CPU-s", flush=True)
    clients.clear(output)
    return 0


def _line(run: dict[str, Any]) -> str:
    return (
        f"{run['round'] + 1} {run['tool']}: {run['images_per_s']:,.0f} images/s, "
        f"{run['images_per_cpu_s']:,.0f} images/CPU-s, {run['ok']:,} ok, {run['same_bytes']} with the served bytes, "
        f"{run['wall_s']:.1f} s, {run['cpu_s']:.1f} CPU-s, nginx {run['nginx_cpu_s']:.1f}, "
        f"machine {run['machine_busy_cpu_s']:.1f}"
    )


def _report(given: argparse.Namespace, names: list[str], runs: list[dict[str, Any]]) -> None:
    def values(name: str, key: str) -> list[float]:
        return [run[key] for run in runs if run["tool"] == name]

    rows = [
        {
            "client": name,
            "images/s": results.shown(values(name, "images_per_s")),
            "images/CPU-s": results.shown(values(name, "images_per_cpu_s")),
            "start, CPU-s": results.shown(values(name, "start_cpu_s"), 1),
            "images/CPU-s after it": results.shown(values(name, "images_per_cpu_s_after_start")),
            "ok": results.shown(values(name, "ok")),
            "bytes as served": "not kept" if name == "bare" else results.shown(values(name, "same_bytes")),
            "peak PSS, MB": results.shown(values(name, "peak_pss_mb")),
            "peak RSS, MB": results.shown(values(name, "peak_rss_mb")),
            "nginx CPU-s": results.shown(values(name, "nginx_cpu_s"), 1),
            "others' CPU-s": results.shown(values(name, "others_cpu_s"), 1),
        }
        for name in names
    ]
    print("\n" + results.table(rows))
    content: dict[str, Any] = {
        "configuration": {
            key: getattr(given, key.replace("-", "_"))
            for key in (
                "images",
                "runs",
                "start",
                "per-host",
                "fan-out",
                "threads",
                "processes",
                "per-shard",
                "raypipe",
            )
        },
        "summary": {
            name: {
                key: results.spread(values(name, key))
                for key in (
                    "images_per_s",
                    "images_per_cpu_s",
                    "start_wall_s",
                    "start_cpu_s",
                    "images_per_cpu_s_after_start",
                    "wall_s",
                    "cpu_s",
                    "peak_pss_mb",
                    "nginx_cpu_s",
                )
            }
            for name in names
        },
    }
    peers = [name for name in names if name in clients.IMG2DATASET]
    if peers:
        content["configuration"] |= {name: clients.IMG2DATASET[name] for name in peers}
        content["configuration"]["img2dataset_version"] = clients.img2dataset_version(given.img2dataset)
    ours = [name for name in ("raypipe", "raypipe_tuned") if name in names]
    content["goals"] = [found for name in ours for peer in peers for found in _goals(values, name, peer)]
    for found in content["goals"]:
        print(results.said(found))
    print(results.write(given.results, "fetch_rate", content | {"runs": runs}).name)


def _goals(values: Callable[[str, str], list[float]], ours: str, peer: str) -> list[dict[str, Any]]:
    def ratio(key: str) -> float:
        medians = [results.spread(values(name, key))["median"] for name in (ours, peer)]
        return medians[0] / medians[1]

    cpu = ratio("images_per_cpu_s")
    return [
        results.goal(f"{ours}: images per CPU second, divided by those of {peer}", cpu, _GOAL_CPU),
        results.goal(f"{ours}: the same, stretch goal ({peer})", cpu, _STRETCH_CPU),
        results.goal(
            f"{ours}: the same, without the cost of a start ({peer})", ratio("images_per_cpu_s_after_start"), _GOAL_CPU
        ),
        results.goal(
            f"{ours}: images per second of wall clock, divided by those of {peer}", ratio("images_per_s"), _GOAL_WALL
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
