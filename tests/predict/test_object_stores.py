"""Only the user may name a server or options of an object store. Rows of manifests and object names may not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from raypipe.errors import InputError, StageError
from raypipe.pictures.decoding import Undecodable
from raypipe.predict import object_stores, picture_files
from raypipe.predict.inputs import find_pictures
from raypipe.predict.object_stores import open_store, refusal_reason, split_options
from raypipe.predict.picture_files import InputPicture, add_file_info, read_picture
from raypipe.storage import Storage
from tests.s3_faults import S3Faults

HERE = Storage("root")
AZURE_WITHOUT_KEYS = "credential_kind=anonymous&enable_tls=false"


class Stranger:
    """A server that records each request and denies it."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        noted = self.requests

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if self.raw_requestline and self.parse_request():
                    noted.append(self.requestline)
                    self.send_response(403)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                self.close_connection = True

            def log_message(self, format: str, *values: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=20)


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    server = Stranger()
    try:
        yield server
    finally:
        server.close()


def rows(folder: Path, *paths: str) -> list[InputPicture]:
    """The pictures of a local manifest."""
    (folder / "list.csv").write_text("\n".join(["path", *paths]))
    return find_pictures([str(folder / "list.csv")], HERE).pictures


def test_manifest_row_cannot_choose_a_server(tmp_path: Path, stranger: Stranger) -> None:
    found = rows(
        tmp_path,
        f"s3://bucket/k.jpg?endpoint_override={stranger.address}&scheme=http&region=us-east-1",
        f"s3://bucket/k.jpg?scheme=http&region=us-east-1&endpoint_override={stranger.address}",
        f"gs://anonymous@bucket/k.jpg?endpoint_override={stranger.address}&scheme=http&retry_limit_seconds=1",
    )
    stamped = add_file_info(found, HERE)
    read = [read_picture(picture, HERE) for picture in stamped]
    assert stranger.requests == []
    assert all(str(one.reason).startswith("has options, which only predict.inputs may give: ") for one in stamped)
    assert read == [Undecodable(str(one.reason)) for one in stamped]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("s3://bucket.name/a b?c=d%20e.jpg", None),
        ("gs://bucket/k.jpg", None),
        ("gcs://anonymous@bucket_1/k.jpg", None),
        ("abfs://container@account.dfs.core.windows.net/k.jpg", None),
        ("abfss://account.blob.core.windows.net/container/k.jpg", None),
        ("s3://bucket?region=x/k.jpg", "has options, which only predict.inputs may give: region=x/k.jpg"),
        ("gs://bucket/k.jpg?project_id=p", "has options, which only predict.inputs may give: project_id=p"),
        *(
            (f"{store}/k.jpg", f"names no bucket, and only predict.inputs may name a server: {store}")
            for store in [
                "abfs://account@127.0.0.1:10000",
                "abfs://account:a2V5@127.0.0.1:10000",
                "abfss://host.example",
                "abfs://c@account.dfs.core.windows.net.example",
                "abfs://c@account.dfs.core.windows.net:10000",
                "abfs://c@example",
                "abfs://c@example#.dfs.core.windows.net",
                "abfs://c@e.example%2f.blob.core.windows.net",
                "s3://key:secret@bucket",
                "s3://127.0.0.1:9000",
                "s3://example#",
                "s3://..",
                "s3://",
                "gs://key@bucket",
                "gs://b%2fc",
            ]
        ),
    ],
)
def test_manifest_row_may_name_only_known_stores(tmp_path: Path, uri: str, reason: str | None) -> None:
    assert refusal_reason(uri) == reason
    (found,) = rows(tmp_path, uri)
    assert (found.path, found.reason, found.options, found.is_in_user_store) == (uri, reason, "", False)


@pytest.mark.parametrize(
    ("uri", "place", "options"),
    [
        ("s3://b/k.jpg?scheme=http&region=x", "s3://b/k.jpg", "scheme=http&region=x"),
        ("s3://b/a?b=c?region=x", "s3://b/a?b=c", "region=x"),
        ("abfs://c@a.dfs.core.windows.net/k?enable_tls=false", "abfs://c@a.dfs.core.windows.net/k", "enable_tls=false"),
        ("s3://b/what?.jpg", "s3://b/what?.jpg", ""),
        ("/files/k?scheme=http", "/files/k?scheme=http", ""),
        ("file:///k?scheme=http", "file:///k?scheme=http", ""),
    ],
)
def test_uri_options_are_separated_from_object_name(uri: str, place: str, options: str) -> None:
    assert split_options(uri) == (place, options)


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("s3://b/a%20b c?scheme=d.jpg", "b/a%20b c?scheme=d.jpg"),
        ("gs://b/a%20b c?scheme=d.jpg", "b/a%20b c?scheme=d.jpg"),
        ("gs://anonymous@b", "b"),
        ("abfs://c@account.dfs.core.windows.net/a%20b?tenant_id=d.jpg", "c/a%20b?tenant_id=d.jpg"),
        ("abfs://account.blob.core.windows.net/c/k.jpg", "c/k.jpg"),
        ("/a/b.jpg", "/a/b.jpg"),
    ],
)
def test_object_name_is_used_literally(place: str, path: str) -> None:
    assert open_store(place, "", HERE)[1] == path


@pytest.fixture
def bucket(s3_endpoint: str, stranger: Stranger) -> str:
    """Fill a folder of a bucket: pictures, one named like options, and a list. Returns the options to reach it."""
    client = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    odd = f"c?endpoint_override={stranger.address}&scheme=http&region=x.jpg"
    lines = ["path", "a.jpg", "s3://bucket/odd/a.jpg", odd, f"s3://bucket/odd/{odd}"]
    for name, data in (("a.jpg", "a"), (odd, "c"), ("list.csv", "\n".join(lines))):
        client.put_object(Bucket="bucket", Key=f"odd/{name}", Body=data.encode())
    return f"endpoint_override={s3_endpoint.removeprefix('http://')}&scheme=http&region=us-east-1"


def test_object_names_are_not_read_as_options(bucket: str, s3_endpoint: str, stranger: Stranger) -> None:
    for item, storage in (
        ("s3://bucket/odd", Storage("root", s3_endpoint, "us-east-1")),
        (f"s3://bucket/odd?{bucket}", HERE),
    ):
        found = add_file_info(find_pictures([item], storage).pictures, storage)
        assert [read_picture(picture, storage) for picture in found] == [b"a", b"c"]
        assert [picture.is_in_user_store for picture in found] == [True, True]
    assert stranger.requests == []


def test_rows_use_options_of_manifest_not_their_own(bucket: str, stranger: Stranger) -> None:
    for item in ("a.jpg", "list.csv"):
        found = add_file_info(find_pictures([f"s3://bucket/odd/{item}?{bucket}"], HERE).pictures, HERE)
        assert read_picture(found[0], HERE) == b"a"
    # The two rows of a.jpg are one picture. So are the two rows of the other picture.
    assert [picture.path.partition("?")[0] for picture in found] == ["s3://bucket/odd/a.jpg", "s3://bucket/odd/c"]
    assert str(found[1].reason).startswith("has options, which only predict.inputs may give: endpoint_override=")
    assert stranger.requests == []


def test_failing_store_of_a_row_is_given_up_quickly(
    tmp_path: Path, bucket: str, s3_faults: S3Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "_REQUESTS_AT_ONCE", 1)
    monkeypatch.setattr(object_stores, "_OPENED", {})
    # Without a named server, requests go to Amazon. Here they go to loopback.
    options = f"endpoint_override={s3_faults.endpoint.removeprefix('http://')}&scheme=http&region=us-east-1"
    open_ = object_stores._open
    monkeypatch.setattr(object_stores, "_open", lambda store, _, storage: open_(store, options, storage))
    del bucket
    # An error that means "no answer" and is not retried for seconds.
    fault = s3_faults.fail("/odd/", status=400, code="InvalidRequest")
    uris = [f"s3://bucket/odd/{i}.jpg" for i in range(5)]
    (tmp_path / "a.jpg").write_bytes(b"a")
    found = add_file_info(rows(tmp_path, *uris, "a.jpg"), HERE)
    reasons = [str(picture.reason) for picture in found]
    assert fault.hits == 3
    assert all(reason.startswith("cannot be read: ") for reason in reasons[:5])
    assert reasons[3:] == ["cannot be read: s3 has not answered"] * 2 + ["None"]
    # Once the store answers, every picture is requested.
    fault.left = 0
    (known,) = add_file_info(rows(tmp_path, "s3://bucket/odd/a.jpg"), HERE)
    assert known.size == 1
    fault.left = 9
    refused = read_picture(known, HERE)
    assert isinstance(refused, Undecodable)
    assert refused.reason.startswith("cannot be read: ")
    (tmp_path / "list.csv").write_text("path\ns3://bucket/odd/1.jpg\n")
    fault.left = 0
    named = find_pictures([str(tmp_path / "list.csv"), "s3://bucket/odd/a.jpg"], HERE).pictures
    fault.left = 9
    with pytest.raises(StageError, match="when the store answers again, run the same"):
        add_file_info(named[:1], HERE)


def test_google_requests_have_a_time_limit(tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_stores, "_OPENED", {})
    monkeypatch.setattr(object_stores, "_GCS_SECONDS", 1)
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{free_port}")
    (found,) = add_file_info(rows(tmp_path, "gs://anonymous@bucket/k.jpg"), HERE)
    assert "Retry policy exhausted" in str(found.reason)


def test_azure_denial_gives_row_or_one_line_error(stranger: Stranger) -> None:
    place = f"abfs://account@{stranger.address}/c/k.jpg"
    picture = InputPicture(place, place, options=AZURE_WITHOUT_KEYS)
    (found,) = add_file_info([picture], HERE)
    assert str(found.reason).startswith("cannot be read: ")
    with pytest.raises(InputError, match=r"k.jpg.*: cannot be opened: ") as error:
        find_pictures([f"{place}?{AZURE_WITHOUT_KEYS}"], HERE)
    assert "\n" not in str(error.value)
    assert stranger.requests
