"""The study end to end: a simulated person answers over a real socket. Answers are written completely or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow as pa
import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import ConfigError, InputError, StageError
from raypipe.report import participants
from raypipe.statistics.intervals import wilson_interval
from raypipe.study.pipeline import ANSWERS, run
from raypipe.tables.record import RunRecord
from raypipe.tables.root_tables import RootTables
from tests.commands import start
from tests.report.root import Built, commit, write_images

Person = Callable[[aiohttp.ClientSession, dict[str, Any]], Any]


def config_for(built: Built, port: int, name: str = "ann", pictures: int = 6, **more: Any) -> Config:
    study = {"participant": name, "pictures": pictures, "port": port}
    return load_config(root=built.config.root, study=study, **more)


async def visit(port: int, person: Person) -> Any:
    """Wait for the page, then let `person` act."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        for _ in range(200):
            try:
                async with client.get("/state") as response:
                    return await person(client, await response.json())
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)
        raise AssertionError("the study's page never came up")


def study(config: Config, person: Person) -> tuple[RunRecord, Any]:
    """Run the stage in this thread while `person` acts in another."""
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(asyncio.run(visit(config.study.port, person))), daemon=True)
    thread.start()
    record = run(config)
    thread.join(20)
    assert seen, "the person did not come to the end"
    return record, seen[0]


async def says_top_always(client: aiohttp.ClientSession, state: dict[str, Any]) -> dict[str, Any]:
    for position in range(state["questions"]):
        body = {"position": position, "answer": "top", "seconds": 0.5 + position}
        async with client.post("/answer", json=body) as response:
            assert response.status == 200
            state = await response.json()
    return state


def test_answers_are_written_and_rated(built: Built, free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    record, state = study(config_for(built, free_port), says_top_always)
    rows = tables.read_table(built.storage, "study/ann")
    assert rows.schema.equals(ANSWERS)
    assert record.rows_out == 6
    assert rows["position"].to_pylist() == list(range(6))
    assert rows["seconds"].to_pylist() == [0.5 + i for i in range(6)]
    held_out = built.labels[built.labels["split"] == "val"].set_index("post_id")["label"]
    assert rows["label"].to_pylist() == [held_out[post_id] for post_id in rows["post_id"].to_pylist()]
    right = rows["label"].to_pylist().count("top")
    low, high = wilson_interval(right, 6)
    assert state["result"] == {"right": right, "n": 6, "accuracy": right / 6, "low": low, "high": high}
    assert f"ann: {right} of 6 right" in capsys.readouterr().out


def test_interval_groups_pictures_by_user(built: Built, free_port: int) -> None:
    rows = tables.read_table(built.storage, "labels")
    # A person who always says top is right on all pictures of a user or wrong on all.
    users = pa.array([f"user of {label}" for label in rows["label"].to_pylist()], pa.string())
    rows = rows.set_column(rows.schema.get_field_index("user_id"), "user_id", users)
    commit(built.storage, "labels", rows, files={"_model.json": json.dumps(built.model).encode()})
    _, state = study(config_for(built, free_port), says_top_always)
    right = state["result"]["right"]
    assert 0 < right < 6
    low, high = wilson_interval(right, 6)
    assert state["result"]["low"] < low
    assert state["result"]["high"] > high
    (person,) = participants.build(RootTables.open(built.storage))
    assert (person.low, person.high) == (state["result"]["low"], state["result"]["high"])


def test_the_server_has_stopped_when_the_command_returns(built: Built, free_port: int) -> None:
    study(config_for(built, free_port), says_top_always)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port)) != 0


def test_participants_accumulate_and_the_report_shows_them(built: Built, free_port: int) -> None:
    for name in ("ann", "bob"):
        study(config_for(built, free_port, name), says_top_always)
    found = participants.build(RootTables.open(built.storage))
    assert [(person.name, person.pictures) for person in found] == [("ann", 6), ("bob", 6)]
    shown = [tables.read_table(built.storage, f"study/{name}")["post_id"].to_pylist() for name in ("ann", "bob")]
    assert shown[0] != shown[1]
    again = run(config_for(built, free_port, "ann"))
    assert again.run_id == tables.get_record(built.storage, "study/ann").run_id


def test_page_and_pictures_do_not_reveal_answers(built: Built, free_port: int) -> None:
    async def looks(client: aiohttp.ClientSession, state: dict[str, Any]) -> dict[str, Any]:
        assert set(state) == {"participant", "classes", "examples", "questions", "answered", "result"}
        assert state["result"] is None
        assert sorted(set(state["examples"])) == ["bottom", "top"]
        async with client.get("/") as response:
            page = await response.text()
            assert "http://" not in page
            assert "https://" not in page
        async with client.get("/questions/0") as response:
            assert response.content_type == "image/jpeg"
            picture = await response.read()
        assert not any(name in str(response.headers) for name in ("top", "bottom", "p0"))
        async with client.get("/questions/6") as response:
            assert response.status == 404
        finished = await says_top_always(client, state)
        return {**finished, "picture": picture}

    _, state = study(config_for(built, free_port), looks)
    first = tables.read_table(built.storage, "study/ann")["post_id"][0].as_py()
    assert RootTables.open(built.storage).pictures([first])[first] == state["picture"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"position": 1, "answer": "top", "seconds": 1}, "the next is 0"),
        ({"position": 0, "answer": "maybe", "seconds": 1}, "must be one of top, bottom"),
        ({"position": 0, "answer": "top", "seconds": -1}, "must be between"),
        ({"position": 0, "answer": "top"}, "seconds"),
        ([1], ""),
    ],
)
def test_wrong_answers_are_refused(built: Built, free_port: int, body: Any, words: str) -> None:
    async def errs(client: aiohttp.ClientSession, state: dict[str, Any]) -> dict[str, Any]:
        async with client.post("/answer", json=body) as response:
            assert response.status == 400
            assert words in await response.text()
        return await says_top_always(client, state)

    _, state = study(config_for(built, free_port, pictures=2), errs)
    assert state["answered"] == 2


def test_requests_from_other_sites_are_refused(built: Built, free_port: int) -> None:
    async def attacks(client: aiohttp.ClientSession, state: dict[str, Any]) -> dict[str, Any]:
        for host in ("evil.example", "xn--", "xn--a.b"):
            async with client.get("/state", headers={"Host": host}) as response:
                assert response.status == 403
        plain = {"Content-Type": "text/plain"}
        async with client.post("/answer", data=b'{"position":0,"answer":"top","seconds":1}', headers=plain) as response:
            assert response.status == 415
        return await says_top_always(client, state)

    _, state = study(config_for(built, free_port, pictures=2), attacks)
    assert state["answered"] == 2


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_study_stops_and_writes_nothing(built: Built, free_port: int, sent: signal.Signals) -> None:
    words = ["--root", built.config.root, "--study.participant", "ann", "--study.pictures", "4"]
    process = start(
        [sys.executable, "-m", "raypipe", "study", *words, "--study.port", str(free_port)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        cwd=Path(__file__).parents[2],
    )  # fmt: skip

    async def answers_one(client: aiohttp.ClientSession, _: dict[str, Any]) -> int:
        async with client.post("/answer", json={"position": 0, "answer": "top", "seconds": 1}) as response:
            return response.status

    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", free_port)) == 0:
                    break
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        assert asyncio.run(visit(free_port, answers_one)) == 200
        process.send_signal(sent)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert built.storage.files("study") == []


def test_study_needs_a_participant(built: Built, free_port: int) -> None:
    with pytest.raises(ConfigError, match=r"^study\.participant: '' is not allowed; set the participant's name$"):
        run(config_for(built, free_port, ""))


def test_taken_port_gives_one_line_and_no_table(built: Built) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"study\.port {port}: cannot listen"):
            run(config_for(built, port))
    assert built.storage.files("study") == []


def test_too_few_pictures_is_an_error(built: Built, free_port: int) -> None:
    held_out = int((built.labels["split"] == "val").sum())
    with pytest.raises(InputError, match=f"has only {held_out} labelled validation pictures"):
        run(config_for(built, free_port, pictures=held_out + 1))


def test_metadata_without_pictures_is_an_error(built: Built, free_port: int) -> None:
    write_images(built.storage, built.posts, built.status, with_bytes=False)
    with pytest.raises(InputError, match="has only 0"):
        run(config_for(built, free_port))
    assert built.storage.files("study") == []
