"""`raypipe run`: what it shows before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from raypipe import chain
from raypipe.config import Config
from raypipe.errors import InputError
from tests.training_root import change


@pytest.mark.usefixtures("ray_session")
def test_funnel_and_regression_are_shown_before_the_sweep(
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
    # Posts alone, and a sweep that cannot begin: what is printed before its error was printed before it.
    broken = change(
        config,
        posts=str(tmp_path / "posts.csv"),
        ingest={"fetch": False},
        label={"eligible": "post"},
        train={"weights": str(tmp_path / "missing.pth")},
    )
    with pytest.raises(InputError, match="missing"):
        chain.run(broken)
    before, begins, after = capsys.readouterr().out.partition("[3/4] sweep")
    assert begins
    first = before[before.index("[2/4] label") :]
    assert "Funnel ─" in first
    assert "Regression ─" in first
    assert any(line.startswith("Posts collected") and "60" in line for line in first.splitlines())
    assert "Funnel ─" not in after
