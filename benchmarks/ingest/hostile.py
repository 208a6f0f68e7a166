"""Fetching from servers that answer badly: how much this slows down the good pictures.

`--part errors`: a share of the pictures (2 %) gets errors of every kind, in equal numbers. This is compared with a run
without errors and with img2dataset with errors. `--part hosts`: of 20 hosts, one sends slowly, one begins slowly and
one limits requests (429 with Retry-After). This is compared with a run of the other 17 hosts alone. In both parts, the
rate is that of the good pictures, from the first to the last of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import pictures, processes, results, web
from benchmarks.ingest import clients
from benchmarks.ingest.troubled import DELAY_SECONDS, KINDS, troubled

_GOAL = 0.9
_GOOD = [f"127.0.0.{n}" for n in range(1, 18)]
_SLOW, _DELAYED, _LIMITING = "127.0.0.18", "127.0.0.19", "127.0.0.20"
_REFUSING = "127.0.0.21"
_BYTES_A_SECOND = 20_000
_LIMIT = 20
_RETRY_AFTER = 2
_LIMITED = (
    "location / { limit_req zone=one burst=5 nodelay; limit_req_status 429; } error_page 429 @later; "
    f"location @later {{ add_header Retry-After {_RETRY_AFTER} always; return 429; }}"
)


@dataclass(frozen=True)
class Case:
    """Posts to fetch. `good` are the addresses that nginx serves correctly; `wanted` are expected counts by status."""

    name: str
    urls: list[str]
    good: list[str]
    wanted: dict[str, int] | None


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    with results.work_folder(given.work) as work:
        served = pictures.photos(work, given.images)
        web.warm(served)
        return _errors(given, work, served) if given.part == "errors" else _hosts(given, work, served)


def _arguments() -> argparse.Namespace:
    made = results.parser(__doc__, 48_000)
    made.add_argument("--part", choices=("errors", "hosts"), required=True, help="part to measure")
    made.add_argument("--share", type=float, default=0.02, help="share of pictures with errors (errors)")
    made.add_argument("--bad-images", type=int, default=800, help="pictures on each of the three bad hosts (hosts)")
    made.add_argument("--ways", type=clients.ways, default="defaults,tuned", help=f"some of {', '.join(clients.WAYS)}")
    made.add_argument("--per-host", type=int, help="requests at a time to a host, tuned; 64 (errors), 16 (hosts)")
    made.add_argument("--fan-out", type=int, default=256, help="raypipe's requests at a time, tuned")
    made.add_argument("--img2dataset", type=Path, help="its program (errors); left out if not set")
    made.add_argument("--threads", type=int, default=32, help="img2dataset's thread_count")
    made.add_argument("--processes", type=int, default=os.cpu_count(), help="img2dataset's processes_count")
    given = made.parse_args()
    given.per_host = given.per_host or (64 if given.part == "errors" else 16)
    return given


def _errors(given: argparse.Namespace, work: Path, served: Path) -> int:
    port, bad_port = web.free_port(), web.free_port()
    rng = np.random.default_rng(0)
    each = round(given.images * given.share / len(KINDS))
    bad = rng.permutation(given.images)[: each * len(KINDS)].tolist()
    kinds = dict(zip(bad, list(KINDS) * each, strict=True))
    urls, wanted = [], Counter[str]()
    for number in range(given.images):
        path, kind = pictures.path_of(number), kinds.get(number)
        # raypipe pauses a host after 429. 429 has its own host, because otherwise all pictures would wait.
        host = _REFUSING if kind == "429" else "127.0.0.1"
        times = "?times=99" if kind == "500" else ""
        urls.append(f"http://{host}:{bad_port}/{kind}/{path}{times}" if kind else f"http://{host}:{port}/{path}")
        wanted[KINDS[kind] if kind else "ok"] += 1
    well = [url for number, url in enumerate(urls) if number not in kinds]
    cases = [
        Case("without errors", well, well, {"ok": len(well)}),
        Case("with errors", urls, well, dict(wanted)),
    ]
    runs: list[dict[str, Any]] = []
    with (
        web.nginx(work / "nginx", web.server(served, ["127.0.0.1"], port), ("127.0.0.1", port)) as nginx,
        troubled(served, [("127.0.0.1", bad_port), (_REFUSING, bad_port)], work / "troubled.txt"),
    ):
        for number in range(given.runs):
            for case in cases if number % 2 else cases[::-1]:
                for way in given.ways:
                    runs.append({"round": number, **_raypipe(given, work, case, way, [port, bad_port], nginx, served)})
                    print(_line(runs[-1]), flush=True)
            if given.img2dataset:
                runs.append({"round": number, **_peer(given, work, cases[1], nginx, served)})
                print(_line(runs[-1]), flush=True)
    configuration = {"share": given.share, "kinds": list(KINDS), "each": each}
    return _report(given, "hostile_errors", cases, runs, configuration)


def _hosts(given: argparse.Namespace, work: Path, served: Path) -> int:
    port = web.free_port()
    rng = np.random.default_rng(0)
    n_good = given.images - 3 * given.bad_images
    if n_good <= 0:
        raise SystemExit(f"--images {given.images}: the bad hosts need {3 * given.bad_images} of them; set more")
    hosts = [_GOOD[number % len(_GOOD)] for number in range(n_good)]
    hosts += [host for host in (_SLOW, _DELAYED, _LIMITING) for _ in range(given.bad_images)]
    order = rng.permutation(given.images).tolist()
    urls = []
    for number in order:
        kind = "delay/" if hosts[number] == _DELAYED else ""
        urls.append(f"http://{hosts[number]}:{port}/{kind}{pictures.path_of(number)}")
    well = [url for url, number in zip(urls, order, strict=True) if number < n_good]
    cases = [Case("17 hosts", well, well, {"ok": n_good}), Case("20 hosts", urls, well, None)]
    blocks = [
        f"limit_req_zone $server_addr zone=one:1m rate={_LIMIT}r/s;",
        web.server(served, _GOOD, port),
        web.server(served, [_SLOW], port, f"limit_rate {_BYTES_A_SECOND};"),
        web.server(served, [_LIMITING], port, _LIMITED),
    ]
    runs: list[dict[str, Any]] = []
    with (
        web.nginx(work / "nginx", " ".join(blocks), (_GOOD[0], port)) as nginx,
        troubled(served, [(_DELAYED, port)], work / "troubled.txt"),
    ):
        for number in range(given.runs):
            for case in cases if number % 2 else cases[::-1]:
                for way in given.ways:
                    runs.append({"round": number, **_raypipe(given, work, case, way, [port], nginx, served)})
                    print(_line(runs[-1]), flush=True)
    configuration = {
        "pictures_of_each_bad_host": given.bad_images,
        "slow_bytes_per_s": _BYTES_A_SECOND,
        "delay_s": DELAY_SECONDS,
        "limit_requests_per_s": _LIMIT,
        "retry_after_s": _RETRY_AFTER,
    }
    return _report(given, "hostile_hosts", cases, runs, configuration)


def _raypipe(
    given: argparse.Namespace, work: Path, case: Case, way: str, ports: Sequence[int], nginx: web.Nginx, served: Path
) -> dict[str, Any]:
    root = work / "output-raypipe"
    clients.clear(root)
    os.sync()
    posts = _posts(work, case)
    before = nginx.cpu()
    command = clients.raypipe(
        posts, root, ports, per_host=given.per_host, fan_out=given.fan_out, more=given.raypipe, way=way
    )
    usage = processes.run(command, cwd=work, log=work / "log.txt")
    found = {
        "case": _named(case, way),
        **results.numbers_of(usage, len(case.urls)),
        "nginx_cpu_s": nginx.cpu() - before,
    }
    at = clients.when_fetched(root, case.good)
    stored = clients.stored_by_raypipe(root, pictures.digests(served))
    found |= {
        "good_images_per_s": (len(at) - 1) / (at[-1] - at[0]),
        "good_s": at[-1] - at[0],
        "statuses": stored.statuses,
        "ok": stored.statuses.get("ok", 0),
        "same_bytes": stored.same_bytes,
        "as_wanted": len(at) == len(case.good) and case.wanted in (None, stored.statuses),
    }
    if case.wanted is None:
        found["statuses_by_host"] = clients.statuses_by_host(root)
    clients.clear(root)
    return found


def _named(case: Case, way: str) -> str:
    return f"{case.name}, {way}"


def _peer(given: argparse.Namespace, work: Path, case: Case, nginx: web.Nginx, served: Path) -> dict[str, Any]:
    output = work / "output-img2dataset"
    clients.clear(output)
    os.sync()
    per_shard = -(-len(case.urls) // (4 * given.processes))
    sizes = {"threads": given.threads, "processes": given.processes, "per_shard": per_shard}
    command = clients.img2dataset(given.img2dataset, "img2dataset", _posts(work, case), output, **sizes)
    before = nginx.cpu()
    usage = processes.run(command, cwd=work, log=work / "log.txt")
    stored = clients.stored_by_img2dataset(output, pictures.digests(served))
    clients.clear(output)
    ok = stored.statuses.get("success", 0)
    return {
        "case": "img2dataset, with errors",
        **results.numbers_of(usage, len(case.urls)),
        "nginx_cpu_s": nginx.cpu() - before,
        "statuses": stored.statuses,
        "ok": ok,
        "good_images_per_s": ok / usage.wall,
    }


def _posts(work: Path, case: Case) -> Path:
    return pictures.write_posts(work / "posts.parquet", [str(number) for number in range(len(case.urls))], case.urls)


def _line(run: dict[str, Any]) -> str:
    return (
        f"{run['round'] + 1} {run['case']}: {run['good_images_per_s']:,.0f} good images/s, {run['wall_s']:.1f} s, "
        f"{run['cpu_s']:.1f} CPU-s, machine {run['machine_busy_cpu_s']:.1f}, {run['statuses']}"
    )


def _report(
    given: argparse.Namespace, what: str, cases: list[Case], runs: list[dict[str, Any]], configuration: dict[str, Any]
) -> int:
    names = [_named(case, way) for way in given.ways for case in cases]
    names += sorted({run["case"] for run in runs} - set(names))

    def values(name: str, key: str) -> list[float]:
        return [run[key] for run in runs if run["case"] == name]

    rows = [
        {
            "case": name,
            "good images/s": results.shown(values(name, "good_images_per_s")),
            "images/s, whole command": results.shown(values(name, "images_per_s")),
            "images/CPU-s": results.shown(values(name, "images_per_cpu_s")),
            "ok": results.shown(values(name, "ok")),
        }
        for name in names
    ]
    print("\n" + results.table(rows))
    goals = []
    for way in given.ways:
        medians = [results.spread(values(_named(case, way), "good_images_per_s"))["median"] for case in cases]
        text = f"{way}: good images per second, {cases[1].name}, divided by those {cases[0].name}"
        goals.append(results.goal(text, medians[1] / medians[0], _GOAL))
    for found in goals:
        print(results.said(found))
    keys = ("good_images_per_s", "images_per_s", "images_per_cpu_s", "wall_s", "cpu_s", "ok")
    content: dict[str, Any] = {
        "configuration": {
            "images": given.images,
            "runs": given.runs,
            "per_host": given.per_host,
            "fan_out": given.fan_out,
            "ways": given.ways,
            "raypipe": given.raypipe,
            **configuration,
        },
        "summary": {name: {key: results.spread(values(name, key)) for key in keys} for name in names},
        "goals": goals,
        "runs": runs,
    }
    if given.img2dataset and what == "hostile_errors":
        with contextlib.suppress(OSError):
            content["configuration"]["img2dataset"] = clients.img2dataset_version(given.img2dataset)
    print(results.write(given.results, what, content).name)
    wrong = [run for run in runs if not run.get("as_wanted", True)]
    for run in wrong:
        print(f"round {run['round'] + 1}, {run['case']}: wrong statuses of rows: {run['statuses']}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
