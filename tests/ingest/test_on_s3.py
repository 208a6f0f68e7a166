"""The stage on an object store with temporary or permanent errors: one line, and no loss."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import StageError
from raypipe.ingest.pipeline import run
from tests.ingest.conftest import WebServer
from tests.s3_faults import S3Faults

POSTS = 80

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def on_s3(tmp_path: Path, server: WebServer, s3_faults: S3Faults) -> Config:
    ids = range(POSTS)
    urls = [server.url(f"/{i}.jpg") for i in ids]
    pd.DataFrame({"post_id": [f"p{i:02d}" for i in ids], "image_url": urls, "likes": ids, "followers": ids}).to_csv(
        tmp_path / "posts.csv", index=False
    )
    return load_config(
        root=f"s3://bucket/{tmp_path.name}",
        posts=str(tmp_path / "posts.csv"),
        storage={"endpoint": s3_faults.endpoint, "region": "us-east-1"},
        ray={"dashboard": False, "num_cpus": 2},
        ingest={"allow_private": True, "allow_ports": [server.port], "attempts": 1, "block_rows": 16},
        faces={"upsample": 0},
    )


def check_complete(config: Config) -> None:
    rows = tables.read_table(config.open_storage(), "images", ["post_id", "status"])
    assert sorted(rows["post_id"].to_pylist()) == [f"p{i:02d}" for i in range(POSTS)]
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert not [name for name in config.open_storage().files("images") if "_staging" in name]


def test_temporary_s3_errors_are_survived(on_s3: Config, server: WebServer, s3_faults: S3Faults) -> None:
    slow_down = s3_faults.fail("PUT", share=0.2)
    cut = s3_faults.reset("GET", share=0.05)
    run(on_s3)
    check_complete(on_s3)
    assert slow_down.hits > 0
    assert cut.hits > 0
    assert set(server.requests.values()) == {1}


def test_denied_write_gives_one_line_and_run_resumes(on_s3: Config, server: WebServer, s3_faults: S3Faults) -> None:
    denied = s3_faults.fail("PUT .*images/_staging/.*part-.*-00000[2-9]", status=403, code="AccessDenied")
    with pytest.raises(StageError, match=r"cannot write: .*give these credentials access to it") as refused:
        run(on_s3)
    assert "\n" not in str(refused.value)
    assert denied.hits > 0
    with pytest.raises(StageError, match="is unfinished"):
        tables.get_record(on_s3.open_storage(), "images")
    s3_faults.heal()
    staged = on_s3.open_storage().files("images/_staging")
    assert any("part-" in name for name in staged), "nothing was staged before the refusal"
    record = run(on_s3)
    assert record.rows_out == POSTS
    check_complete(on_s3)
    # Staged pictures were not requested again.
    assert sum(server.requests.values()) < 2 * POSTS
