"""Conditional writes over real HTTP: to an S3 server, and to a server that answers as Google's XML API does."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator

import pytest
from aiohttp import web

from raypipe.errors import StageError
from raypipe.storage import Storage, conditional
from raypipe.tables import lock
from raypipe.tables.record import Claim
from tests.s3_faults import S3Faults


@pytest.fixture
def storage(s3_faults: S3Faults) -> Storage:
    return Storage(f"s3://bucket/{uuid.uuid4().hex}", endpoint=s3_faults.endpoint, region="us-east-1")


@pytest.mark.cluster
def test_conditional_write_succeeds_once_per_version(storage: Storage) -> None:
    assert conditional.read_version(storage, "t/a") is None
    assert conditional.replace_version(storage, "t/a", b"1", None)
    assert not conditional.replace_version(storage, "t/a", b"2", None)
    data, version = conditional.read_version(storage, "t/a") or (b"", {})
    assert data == b"1"
    assert conditional.replace_version(storage, "t/a", b"3", version)
    assert not conditional.replace_version(storage, "t/a", b"4", version)
    assert storage.read("t/a") == b"3"
    storage.delete("t/a")
    assert not conditional.replace_version(storage, "t/a", b"5", version)


@pytest.mark.cluster
def test_conditional_write_with_lost_answer_succeeds(storage: Storage, s3_faults: S3Faults) -> None:
    fault = s3_faults.reset("PUT .*/t/a", late=True, times=1)
    assert conditional.replace_version(storage, "t/a", b"1", None)
    assert fault.hits == 1
    assert storage.read("t/a") == b"1"


@pytest.mark.cluster
@pytest.mark.parametrize("status", [501, 405])
def test_plain_put_is_used_without_conditional_support(storage: Storage, s3_faults: S3Faults, status: int) -> None:
    fault = s3_faults.fail("PUT .*/t/a", status=status, code="NotImplemented", times=1)
    assert conditional.replace_version(storage, "t/a", b"1", None)
    assert fault.hits == 1
    assert storage.read("t/a") == b"1"


@pytest.mark.cluster
def test_a_refused_put_names_the_object(storage: Storage, s3_faults: S3Faults) -> None:
    s3_faults.fail("/t/a", status=403, code="AccessDenied")
    with pytest.raises(StageError, match=r"t/a: cannot write: .*AccessDenied.*; give these credentials access"):
        conditional.replace_version(storage, "t/a", b"1", None)
    with pytest.raises(StageError, match=r"t/a: cannot read: .*AccessDenied.*; give these credentials access"):
        conditional.read_version(storage, "t/a")


@pytest.mark.cluster
def test_errors_of_the_store_are_one_line(storage: Storage, s3_faults: S3Faults) -> None:
    s3_faults.fail("/t/a", status=503, code="SlowDown")
    with pytest.raises(
        StageError, match=r"t/a: cannot write: SlowDown: .*; when the store at .* answers again"
    ) as error:
        conditional.replace_version(storage, "t/a", b"1", None)
    assert "\n" not in str(error.value)


class GoogleStore:
    """Objects with generations, and the header that Google Cloud Storage's XML API uses for conditions."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.generation = 100
        self.conditions: list[str | None] = []

    async def put(self, request: web.Request) -> web.Response:
        condition = request.headers.get("x-goog-if-generation-match")
        self.conditions.append(condition)
        _, now = self.objects.get(request.path, (b"", 0))
        if condition is not None and int(condition) != now:
            return web.Response(status=412)
        self.generation += 1
        self.objects[request.path] = await request.read(), self.generation
        return web.Response(headers={"ETag": f'"{self.generation}"', "x-goog-generation": str(self.generation)})

    async def get(self, request: web.Request) -> web.Response:
        if request.path not in self.objects:
            return web.Response(status=404)
        data, generation = self.objects[request.path]
        when = "Tue, 01 Dec 2026 00:00:00 GMT"
        headers = {"ETag": f'"{generation}"', "x-goog-generation": str(generation), "Last-Modified": when}
        return web.Response(body=data, headers=headers)


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[GoogleStore]:
    store, loop = GoogleStore(), asyncio.new_event_loop()

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_put("/{key:.*}", store.put)
        app.router.add_get("/{key:.*}", store.get)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result()
    # An account without tokens, as for emulators. No request can reach Google or the metadata service of a cloud.
    address = f"127.0.0.1:{runner.addresses[0][1]}"
    account = {"gcs_base_url": f"http://{address}", "disable_oauth": True}
    account |= {"client_email": "", "private_key": "", "private_key_id": ""}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account))
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, address)
    yield store
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_google_writes_succeed_once_per_generation(google: GoogleStore) -> None:
    storage = Storage(f"gs://bucket/{uuid.uuid4().hex}")
    assert conditional.read_version(storage, "t/a") is None
    assert conditional.replace_version(storage, "t/a", b"1", None)
    assert not conditional.replace_version(storage, "t/a", b"2", None)
    data, version = conditional.read_version(storage, "t/a") or (b"", {})
    assert data == b"1"
    assert conditional.replace_version(storage, "t/a", b"3", version)
    assert not conditional.replace_version(storage, "t/a", b"4", version)
    assert google.conditions == ["0", "0", "101", "101"]
    assert [value for value, _ in google.objects.values()] == [b"3"]


def test_second_command_on_google_is_refused(google: GoogleStore) -> None:
    storage = Storage(f"gs://bucket/{uuid.uuid4().hex}")
    first, second = lock.read(storage, "labels"), lock.read(storage, "labels")
    claim = Claim.new("label", {"seed": 0}, {}, "0123abcd")
    lock.put(storage, "labels", claim, first)
    with pytest.raises(StageError, match=r"gs://bucket/\w+/labels: another command began to write it at the same time"):
        lock.put(storage, "labels", Claim.new("label", {"seed": 1}, {}, "4567abcd"), second)
    assert lock.read(storage, "labels").claim == claim
    assert len(google.objects) == 1


@pytest.mark.parametrize(
    ("root", "available"),
    [
        ("s3://b/x", True),
        ("gs://b/x", True),
        ("gs://anonymous@b/x", False),
        ("s3://b/x?region=y", False),
        ("run", False),
    ],
)
def test_conditional_writes_are_for_plain_uris_of_s3_and_google(root: str, available: bool) -> None:
    assert conditional.is_available(Storage(root)) == available
