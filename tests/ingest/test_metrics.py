"""The Prometheus metrics of a run have the names in docs/ingest.md."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

from raypipe.config.load import load_config
from raypipe.ingest.pipeline import run
from tests.ingest.conftest import WebServer, status

SECONDS = 60

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


def exported() -> str:
    """Read all metrics of this machine's Ray over loopback."""
    import ray

    (node,) = (node for node in ray.nodes() if node["Alive"])
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def value(name: str, text: str, **tags: str) -> float:
    """The sum of a metric's samples that have `tags`."""
    total = 0.0
    for labels, number in re.findall(rf"^{name}\{{(.*?)\}} (\S+)$", text, re.MULTILINE):
        if all(f'{key}="{tag}"' in labels for key, tag in tags.items()):
            total += float(number)
    return total


def test_prometheus_shows_counts_and_seconds(tmp_path: Path, server: WebServer) -> None:
    server.behave("/3.jpg", status(404))
    lines = ["post_id,image_url,likes,followers", *(f"p{i},{server.url(f'/{i}.jpg')},1,2" for i in range(30))]
    (tmp_path / "posts.csv").write_text("\n".join(lines))
    config = load_config(
        root=str(tmp_path / "root"),
        posts=str(tmp_path / "posts.csv"),
        ray={"dashboard": False, "num_cpus": 2},
        ingest={"allow_private": True, "allow_ports": [server.port], "attempts": 1},
        faces={"upsample": 0},
    )
    counted = "ray_raypipe_ingest_pictures_total"
    before = value(counted, exported(), status="ok"), value(counted, exported(), status="gone")
    record = run(config)
    until = time.monotonic() + SECONDS
    while value(counted, exported(), status="ok") < before[0] + 29 and time.monotonic() < until:
        time.sleep(1)
    text = exported()
    assert value(counted, text, status="ok") == before[0] + 29
    assert value(counted, text, status="gone") == before[1] + 1
    assert value("ray_raypipe_ingest_bytes_total", text) >= record.facts["n_bytes"]
    for step in ("fetch", "decode", "detect", "write"):
        assert value("ray_raypipe_ingest_seconds_total", text, step=step) > 0
    assert "ray_raypipe_ingest_hosts_waiting" in text
    assert "ray_raypipe_ingest_requests_running" in text
