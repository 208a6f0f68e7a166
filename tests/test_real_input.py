"""All stages with real pictures, real engagement and real weights, from another web server (nginx).

Skipped if the real data or nginx is missing. docs/real-data.md has the output of these runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from tests.commands import start

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

INSECTS = 200
_CONFIGURATION = """
pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; worker_processes 1; {user}
events {{ worker_connections 256; }}
http {{
  access_log off; types {{ image/jpeg jpg; }} default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


@pytest.fixture
def nginx(shared_data: Path, tmp_path: Path, free_port: int) -> Iterator[int]:
    """The port on loopback at which nginx serves the real data."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx-light)")
    folder = tmp_path / "nginx"
    folder.mkdir()
    user = "user root;" if os.geteuid() == 0 else ""
    text = _CONFIGURATION.format(folder=folder, user=user, port=free_port, root=shared_data.resolve())
    (folder / "nginx.conf").write_text(text)
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    server = start(command)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", free_port)) == 0:
                    break
            assert server.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield free_port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=20)


def raypipe(*words: str) -> str:
    """Run a command as a user does and return its output."""
    command = [sys.executable, "-m", "raypipe", *words, "--ray.dashboard", "false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def url(port: int, shared_data: Path, picture: Path) -> str:
    return f"http://127.0.0.1:{port}/{picture.relative_to(shared_data)}"


def test_full_run_on_portraits_insects_and_engagement(shared_data: Path, nginx: int, tmp_path: Path) -> None:
    portraits = sorted((shared_data / "portraits").glob("*.jpg"))
    insects = sorted((shared_data / "hymenoptera").glob("*/*/*.jpg"))[:INSECTS]
    rng = np.random.default_rng(0)
    rows = pd.read_csv(shared_data / "engagement.csv").sample(len(portraits) + INSECTS, random_state=0)
    order = rng.permutation(len(rows))
    posts = pd.DataFrame(
        {
            "post_id": [f"{'portrait' if i < len(portraits) else 'insect'}-{i:03d}" for i in range(len(rows))],
            "image_url": [url(nginx, shared_data, picture) for picture in portraits + insects],
            "user_id": rows["account"].astype(str).to_numpy()[order],
            "likes": rows["likes"].to_numpy()[order],
            "followers": rows["followers"].to_numpy()[order],
            "n_hashtags": rows["n_hashtags"].to_numpy()[order],
            "age_days": rows["age_days"].to_numpy()[order],
        }
    )
    posts.to_csv(tmp_path / "posts.csv", index=False)
    root = tmp_path / "root"
    raypipe(
        *("run", "--posts", str(tmp_path / "posts.csv"), "--root", str(root)),
        *("--ingest.allow_private", "--ingest.allow_ports", str(nginx), "--label.quantile", "0.3"),
        *("--train.weights", str(shared_data / "vgg16_notop.h5"), "--train.image_size", "64", "--train.save", "none"),
        *("--sweep.configs", "A,B", "--train.epochs", "{A: 12, B: 1}"),
    )
    images = pd.read_parquet(root / "images", columns=["post_id", "status", "n_faces"])
    assert (images.status == "ok").all()
    one_face = images[images.n_faces == 1].post_id
    assert one_face.str.startswith("portrait").sum() == len(portraits)
    assert one_face.str.startswith("insect").sum() <= 1
    eligible = posts[posts.post_id.isin(one_face)]
    theirs = smf.ols("np.log10(1 + likes) ~ np.log10(1 + followers) + n_hashtags", eligible).fit()
    ours = json.loads((root / "labels" / "_model.json").read_text())
    assert ours["nobs"] == theirs.nobs
    for name in ("params", "bse", "tvalues", "pvalues"):
        assert list(ours[name].values()) == pytest.approx(list(getattr(theirs, name)), rel=1e-9)
    assert ours["rsquared"] == pytest.approx(theirs.rsquared, rel=1e-9)
    assert set(pd.read_parquet(root / "posts").columns) >= {"age_days"}
    rows_of_training = json.loads((root / "sweep" / "results.json").read_text())
    assert {row["configuration"]: row["epoch"] for row in rows_of_training} == {"A": 12, "B": 1}
    assert json.loads((root / "sweep" / "_run.json").read_text())["facts"]["weights"].endswith("vgg16_notop.h5")
    assert (root / "report" / "index.html").exists()


def test_run_with_given_labels_and_split(shared_data: Path, nginx: int, tmp_path: Path) -> None:
    pictures = sorted((shared_data / "hymenoptera").glob("*/*/*.jpg"))
    posts = pd.DataFrame(
        {
            "post_id": [picture.stem for picture in pictures],
            "image_url": [url(nginx, shared_data, picture) for picture in pictures],
            "insect": [picture.parent.name for picture in pictures],
            "part": [picture.parent.parent.name for picture in pictures],
        }
    )
    posts.to_csv(tmp_path / "posts.csv", index=False)
    root = str(tmp_path / "root")
    scheme = (
        "--label.scheme",
        "column",
        "--label.column",
        "insect",
        "--label.split",
        "part",
        "--label.eligible",
        "image",
    )
    fetching = ("--ingest.allow_private", "--ingest.allow_ports", str(nginx), "--faces.enabled", "false")
    raypipe("ingest", "--posts", str(tmp_path / "posts.csv"), "--root", root, *fetching, *scheme)
    raypipe("label", "--root", root, *scheme)
    weights = str(shared_data / "vgg16_notop.h5")
    # Pictures of half the side cost a quarter. At 224 pixels, B took 15 minutes on a slow machine.
    side = ("--train.image_size", "128")
    raypipe("train", "--root", root, "--train.config", "A", "--train.weights", weights, "--train.save", "best", *side)
    # B starts from A's logistic layer. A random one gives gradients that immediately ruin the loaded convolutions.
    probe = f"{root}/train/A/checkpoints/A-0/best.safetensors"
    raypipe(
        *("train", "--root", root, "--train.config", "B", "--train.weights", probe, "--train.save", "none"),
        *("--train.learning_rate", "0.0001", "--train.epochs", "1", *side),
    )
    best = {name: max(row["val_accuracy"] for row in results(root, name)) for name in ("A", "B")}
    assert best["A"] >= 0.84
    assert best["B"] >= best["A"] - 0.05
    counts = pd.read_parquet(f"{root}/labels").groupby("split").size()
    assert counts.to_dict() == {"train": 245, "val": 153}


def results(root: str, name: str) -> list[dict[str, float]]:
    """The epochs of a trained configuration."""
    rows: list[dict[str, float]] = json.loads(Path(f"{root}/train/{name}/results.json").read_text())
    return rows
