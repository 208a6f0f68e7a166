"""Redoing parts of a complete images/: failed pictures, or faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raypipe import tables
from raypipe.errors import ConfigError, StageError
from raypipe.ingest.pipeline import run
from raypipe.world.draw import draw_picture, encode_jpeg
from tests.ingest.conftest import WebServer, body, picture, status
from tests.ingest.test_pipeline import all_ids, configure, ids, plain_rows

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.usefixtures("where")
def test_retry_fetches_only_failed_pictures(tmp_path: Path, server: WebServer) -> None:
    server.behave("/1.jpg", status(503, times=2, data=picture(seed=1)))
    server.behave("/2.jpg", status(503))
    server.behave("/3.jpg", status(404))
    config = configure(tmp_path, server, plain_rows(30))
    first = run(config)
    assert first.facts["statuses"] == {"ok": 27, "server_error": 2, "gone": 1}
    asked = dict(server.requests)
    again = config.ingest.model_copy(update={"retry": ["server_error", "timeout"]})
    second = run(config.model_copy(update={"ingest": again}))
    assert second.facts["statuses"] == {"ok": 28, "server_error": 1, "gone": 1}
    assert second.run_id != first.run_id
    assert ids(config) == all_ids(30)
    once_more = {path for path, n in server.requests.items() if n != asked[path]}
    assert once_more == {"/1.jpg", "/2.jpg"}
    # The table is still complete, so the command without retry does nothing.
    assert run(config) == second


def test_retry_refuses_other_examination_options(tmp_path: Path, server: WebServer) -> None:
    server.behave("/1.jpg", status(503, times=2, data=picture(seed=1)))
    config = configure(tmp_path, server, plain_rows(4))
    first = run(config)
    again = config.ingest.model_copy(update={"retry": ["server_error"], "phash": True})
    with pytest.raises(
        StageError, match=r"were examined with other options: ingest\.phash was None, is True; use the old"
    ):
        run(config.model_copy(update={"ingest": again}))
    assert tables.get_record(config.open_storage(), "images") == first
    # Longer time limits do not count as another result, with or without retry.
    patient = config.ingest.model_copy(update={"retry": ["server_error"], "deadline": 9.0, "attempts": 4})
    second = run(config.model_copy(update={"ingest": patient}))
    assert second.facts["statuses"] == {"ok": 4}
    assert run(config) == second


def test_retry_without_matching_status_does_nothing(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(4))
    first = run(config)
    again = config.ingest.model_copy(update={"retry": ["timeout"]})
    assert run(config.model_copy(update={"ingest": again})) == first


@pytest.mark.usefixtures("where")
def test_faces_are_recounted_without_fetching(tmp_path: Path, server: WebServer) -> None:
    rng = np.random.default_rng(3)
    server.behave("/0.jpg", body(encode_jpeg(draw_picture(rng, n_faces=1, look=0.0), rng)))
    server.behave("/1.jpg", status(404))
    config = configure(tmp_path, server, plain_rows(6))
    run(config)
    asked = dict(server.requests)
    before = tables.read_table(config.open_storage(), "images").sort_by("post_id")
    options = {"enabled": True, "upsample": 0}
    only = config.model_copy(update={"faces": config.faces.model_copy(update={**options, "only": True})})
    record = run(only)
    assert server.requests == asked
    after = tables.read_table(config.open_storage(), "images").sort_by("post_id")
    assert after["n_faces"].to_pylist() == [1, None, 0, 0, 0, 0]
    assert after["phash"].null_count == 1
    for name in ("post_id", "status", "sha256", "image", "fetched_at", "error"):
        assert after[name] == before[name]
    assert run(only) == record
    assert run(config.model_copy(update={"faces": config.faces.model_copy(update=options)})) == record


def test_redo_needs_a_complete_table(tmp_path: Path, server: WebServer) -> None:
    config = configure(tmp_path, server, plain_rows(3), faces={"enabled": True, "only": True})
    with pytest.raises(StageError, match="images: does not exist"):
        run(config)
    both = config.ingest.model_copy(update={"retry": ["timeout"]})
    with pytest.raises(ConfigError, match="use one, then the other"):
        run(config.model_copy(update={"ingest": both}))
