"""What `raypipe run` shows before training, and when it starts Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raypipe.config import Config
from raypipe.errors import StageError
from raypipe.run import pipeline as chain
from tests.training_root import change

PROGRAM = """
import sys
from raypipe.cli import main
code = main(sys.argv[1:])
print({"ray"} & set(sys.modules), code)
"""


@pytest.mark.usefixtures("ray_session")
def test_run_shows_funnel_and_regression_before_sweep(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    posts = pd.DataFrame(
        {
            "post_id": [f"p{i}" for i in range(60)],
            "image_url": "http://127.0.0.1/x.jpg",
            "likes": rng.integers(0, 500, 60),
            "followers": rng.integers(1, 9000, 60),
            "n_hashtags": rng.integers(0, 9, 60),
        }
    )
    posts.to_csv(tmp_path / "posts.csv", index=False)
    # There are only posts, and the sweep fails at its start, so all earlier output comes before the sweep.
    broken = change(
        config,
        posts=str(tmp_path / "posts.csv"),
        ingest={"fetch": False},
        label={"eligible": "post"},
    )
    with pytest.raises(StageError, match="images: does not exist"):
        chain.run(broken)
    before, begins, after = capsys.readouterr().out.partition("[3/4] sweep")
    assert begins
    first = before[before.index("[2/4] label") :]
    assert "Funnel ─" in first
    assert "Regression ─" in first
    assert any(line.startswith("Posts collected") and "60" in line for line in first.splitlines())
    assert "Funnel ─" not in after


def test_ray_starts_only_for_stages_that_need_it(tmp_path: Path) -> None:
    rows = [f"p{i},http://127.0.0.1/{i}.jpg,1,2,true" for i in range(3)]
    (tmp_path / "posts.csv").write_text("\n".join(["post_id,image_url,likes,followers,deleted", *rows]))
    words = ["run", "--posts", str(tmp_path / "posts.csv"), "--root", str(tmp_path / "root"), "--faces.enabled=false"]
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=120)
    # Nothing was fetched, so the second stage fails before the third, which would start Ray.
    assert "[2/4] label" in done.stdout
    assert done.stderr.startswith("raypipe run: ")
    assert done.stdout.splitlines()[-1] == "set() 1"
