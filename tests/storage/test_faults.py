"""S3 with faults: busy, slow, cut connections, unreachable. The errors are sent over real HTTP."""

from __future__ import annotations

import os
import uuid

import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.errors import StageError
from raypipe.storage import Storage, s3
from raypipe.tables import compact as parts
from tests.s3_faults import S3Faults
from tests.table_runs import begin, complete, ids_of, rows

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

ID = pa.schema([("post_id", pa.string())])
# Three parts of an upload: pyarrow's parts have 10 MB.
LARGE = 25_000_000


@pytest.fixture
def storage(s3_faults: S3Faults) -> Storage:
    return Storage(f"s3://bucket/{uuid.uuid4().hex}", endpoint=s3_faults.endpoint, region="us-east-1")


def check_run(storage: Storage) -> None:
    """Do a run from claim to commit, with merging, overwriting and reading."""
    complete(storage, "old")
    with begin(storage, overwrite=True) as run:
        for number, name in enumerate("abcdef"):
            run.writer.write(f"{number:05d}", rows(name))
        for group in parts.merge_groups(run.writer, 3000):
            parts.merge(run.writer, group)
        run.commit(rows_in=6)
    assert ids_of(storage) == list("abcdef")
    listed = [file.path for file in tables.get_record(storage, "labels").files]
    assert sorted(storage.files("labels")) == sorted([*listed, "_run.json"])


def test_slow_down_answers_are_survived(storage: Storage, s3_faults: S3Faults) -> None:
    slow_down = s3_faults.fail(".*", share=0.1)
    check_run(storage)
    assert slow_down.hits > 5


def test_internal_errors_and_cut_connections_are_survived(storage: Storage, s3_faults: S3Faults) -> None:
    broken = s3_faults.fail(".*", status=500, code="InternalError", share=0.05)
    cut = s3_faults.reset(".*", share=0.05)
    check_run(storage)
    assert broken.hits > 0
    assert cut.hits > 0


def test_lost_put_answers_are_survived(storage: Storage, s3_faults: S3Faults) -> None:
    lost = s3_faults.reset("PUT|POST", share=0.2, late=True)
    check_run(storage)
    assert lost.hits > 0


def test_large_file_survives_cut_connections(storage: Storage, s3_faults: S3Faults) -> None:
    data = os.urandom(LARGE)
    cut = s3_faults.reset("PUT .*partNumber", times=2)
    storage.write("t/a", data)
    assert cut.hits == 2
    assert storage.read("t/a") == data


def test_slow_store_is_tolerated(storage: Storage, s3_faults: S3Faults) -> None:
    # pyarrow alone gives up after three seconds.
    s3_faults.seconds = 3.6
    storage.write("t/a", b"x")
    assert storage.read("t/a") == b"x"
    assert s3_faults.seen == {"PUT": 1, "HEAD": 1, "GET": 1}


@pytest.mark.parametrize("n_bytes", [1000, LARGE])
def test_a_file_is_read_and_written_in_few_requests(storage: Storage, s3_faults: S3Faults, n_bytes: int) -> None:
    storage.write("t/a", os.urandom(n_bytes))
    writing = s3_faults.seen.total()
    assert writing == (1 if n_bytes == 1000 else 5)
    storage.read("t/a")
    assert s3_faults.seen.total() - writing == 2


# Unreachable store


def test_store_outage_gives_one_line_and_run_resumes(storage: Storage, s3_faults: S3Faults) -> None:
    said = ""
    try:
        with begin(storage) as run:
            run.writer.write("00000", rows("a"))
            run.writer.write("00001", rows("b"))
            s3_faults.down()
            run.writer.write("00002", rows("c"))
    except StageError as error:
        said = str(error)
    assert said.startswith(f"{storage.root}/labels/_staging/{run.writer.run_id}/part-")
    assert "cannot write: " in said
    assert said.endswith(
        f"; when the store at {s3_faults.endpoint} answers again, run the same command again to continue"
    )
    assert "\n" not in said
    with pytest.raises(StageError, match=r"labels/_claim\.json: cannot read: .*answers again"):
        begin(storage)
    s3_faults.up()
    assert tables.find_record(storage, "labels") is None
    with begin(storage) as again:
        assert again.resumed
        assert again.writer.units_done() == {"00000", "00001"}
        again.writer.write("00002", rows("c"))
        again.commit(rows_in=3)
    assert ids_of(storage) == ["a", "b", "c"]


@pytest.mark.parametrize("failing", ["PUT .*_run.json", "PUT .*_record.json", "DELETE|POST .*delete", "PUT .*part-"])
def test_interrupted_commit_is_completed_by_rerun(storage: Storage, s3_faults: S3Faults, failing: str) -> None:
    complete(storage, "old")
    with begin(storage, overwrite=True) as run:
        run.writer.write("00000", rows("new"))
        fault = s3_faults.fail(failing)
        with pytest.raises(StageError, match=r"s3://bucket/.*: cannot (write|delete): .*answers again, run the same"):
            run.commit(rows_in=1)
    assert fault.hits > 0
    s3_faults.heal()
    if not tables.finish_commit(storage, "labels"):
        # Not everything was staged, so the old table is still valid.
        assert ids_of(storage) == ["old"]
        with begin(storage, overwrite=True) as again:
            again.writer.write("00000", rows("new"))
            again.commit(rows_in=1)
    assert ids_of(storage) == ["new"]
    assert len(storage.files("labels")) == 2


# Failures during a large upload


@pytest.mark.parametrize("failing", ["POST .*uploads", "PUT .*partNumber=2", "POST .*uploadId"])
def test_failed_upload_is_invisible(storage: Storage, s3_faults: S3Faults, failing: str) -> None:
    # One failure per attempt. A later request of pyarrow, when it closes the file, would succeed.
    s3_faults.fail(failing, times=5)
    with pytest.raises(StageError, match=r"t/a: cannot write: .*SLOW_DOWN.*answers again"):
        storage.write("t/a", os.urandom(LARGE))
    s3_faults.heal()
    assert not storage.exists("t/a")
    assert storage.files("t") == []
    s3.abort_uploads(storage, "t")
    bucket, prefix = s3.location(storage, "t/")
    assert "Uploads" not in s3.client(storage).list_multipart_uploads(Bucket=bucket, Prefix=prefix)


@pytest.mark.parametrize("failing", ["GET .*00001.parquet", "PUT .*-m[0-9a-f]{8}", "DELETE .*00001.parquet"])
def test_interrupted_merge_keeps_each_row_once(storage: Storage, s3_faults: S3Faults, failing: str) -> None:
    with begin(storage) as run:
        names = [run.writer.part_name(f"{number:05d}") for number in range(3)]
        for number, name in enumerate("abc"):
            run.writer.write(f"{number:05d}", rows(name))
        fault = s3_faults.fail(failing)
        with pytest.raises(StageError, match=r"answers again, run the same command again"):
            parts.merge(run.writer, names)
        assert fault.hits > 0
        s3_faults.heal()
        assert parts.read_parts(run.writer, ID)["post_id"].to_pylist() == ["a", "b", "c"]
        parts.delete_merged_sources(run.writer)
        assert parts.read_parts(run.writer, ID)["post_id"].to_pylist() == ["a", "b", "c"]
        parts.merge(run.writer, names)
        run.commit(rows_in=3)
    assert ids_of(storage) == ["a", "b", "c"]


def test_missing_right_is_named_in_error(storage: Storage, s3_faults: S3Faults) -> None:
    s3_faults.fail("PUT", status=403, code="AccessDenied")
    with pytest.raises(StageError, match=r"cannot write: .*ACCESS_DENIED.*; give these credentials access"):
        storage.write("t/a", b"x")
