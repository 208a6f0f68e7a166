"""Reading what each client stored: statuses, identical bytes and fetch times."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.ingest import clients

DATA = {f"000/00000{n}.jpg": f"picture {n}".encode() for n in range(4)}
DIGESTS = {path: hashlib.sha256(data).hexdigest() for path, data in DATA.items()}


def stored(folder: Path, bytes_name: str, *, spoil: bool = False) -> None:
    """Write a table of three pictures and one missing picture. With `spoil`, the first picture has other bytes."""
    folder.mkdir(parents=True)
    urls = [f"http://127.0.0.1:8000/{path}" for path in DATA]
    images = [*list(DATA.values())[:3], None]
    if spoil:
        images[0] = b"pictures 0"
    at = [datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC) for second in (3, 1, 2, 4)]
    status = ["ok", "ok", "ok", "gone"]
    columns = {"url": urls, "status": status, bytes_name: images, "fetched_at": pa.array(at, pa.timestamp("us", "UTC"))}
    pq.write_table(pa.table({**columns, "host": ["127.0.0.1"] * 4}), folder / "part-0.parquet")


def test_stored_pictures_are_counted_and_compared(tmp_path: Path) -> None:
    stored(tmp_path / "images", "image")
    assert clients.stored_by_raypipe(tmp_path, DIGESTS) == clients.Stored({"ok": 3, "gone": 1}, 3)
    stored(tmp_path / "shards", "jpg", spoil=True)
    assert clients.stored_by_img2dataset(tmp_path / "shards", DIGESTS) == clients.Stored({"ok": 3, "gone": 1}, 2)


def test_duplicates_table_is_not_counted(tmp_path: Path) -> None:
    stored(tmp_path / "images", "image")
    stored(tmp_path / "images" / "_duplicates", "image")
    assert clients.stored_by_raypipe(tmp_path, DIGESTS).same_bytes == 3


def test_fetch_times_are_sorted_and_of_good_pictures_only(tmp_path: Path) -> None:
    stored(tmp_path / "images", "image")
    start = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    assert [at - start for at in clients.when_fetched(tmp_path)] == [1, 2, 3]
    urls = ["http://127.0.0.1:8000/000/000000.jpg"]
    assert [at - start for at in clients.when_fetched(tmp_path, urls)] == [3]
    assert clients.statuses_by_host(tmp_path) == {"127.0.0.1": {"gone": 1, "ok": 3}}


def test_each_way_adds_its_own_options() -> None:
    def options(way: str, **more: bool) -> set[str]:
        words = clients.raypipe(Path("p"), Path("r"), [8000], per_host=64, fan_out=9, way=way, **more)
        return {word for word in words if word.startswith("--")}

    needed = {"--posts", "--root", "--ingest.allow_private", "--ingest.allow_ports"}
    assert options("defaults", faces=True) == needed
    assert options("defaults") == needed | {"--faces.enabled"}
    tuned = needed | {"--ingest.per_host", "--ingest.fan_out"}
    assert options("tuned", faces=True) == tuned
    assert options("on_ray", faces=True) == tuned | {"--ray.dashboard"}


def test_unknown_way_raises_error_with_its_name() -> None:
    assert clients.ways("defaults,on_ray") == ["defaults", "on_ray"]
    with pytest.raises(ValueError, match="fast: allowed are defaults, tuned, on_ray"):
        clients.ways("tuned,fast")
