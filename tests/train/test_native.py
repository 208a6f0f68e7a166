"""A stored picture that crashes the decoder on Ray costs one picture, not the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raypipe import tables
from raypipe.config import Config
from tests.deadly import deadly_picture, write_site
from tests.training_root import SPLITS, jpeg, write_images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PROGRAM = """
import sys
from raypipe.config.load import load_config
from raypipe.runtime import ray_session
from raypipe.train.decode import prepare_pictures

config = load_config(root=sys.argv[1], ray={"dashboard": False, "num_cpus": 2}, train={"image_size": 32})
with ray_session(config):
    print(prepare_pictures(config).table)
"""


def test_native_crash_costs_one_picture(training: Config, tmp_path: Path) -> None:
    rng, storage = np.random.default_rng(0), training.open_storage()
    images = {f"p{i:03d}": jpeg(rng, 190 if i % 2 else 70) for i in range(len(SPLITS))}
    for name in storage.files("images"):
        storage.delete(f"images/{name}")
    write_images(training, {**images, "p003": deadly_picture()})
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    paths = os.pathsep.join([str(write_site(tmp_path / "site")), str(Path(__file__).parents[2])])
    command = [sys.executable, "-c", PROGRAM, training.root]
    done = subprocess.run(command, env={**kept, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = done.stdout.split()[-1]
    rows = tables.read_table(storage, table).to_pylist()
    errors = {row["post_id"]: row["error"] for row in rows if row["error"]}
    assert errors == {"p003": "picture cannot be decoded: the decoder's process ended: SIGSEGV"}
    assert len(rows) == len(SPLITS)
    assert tables.get_record(storage, table).facts["undecodable"] == 1
