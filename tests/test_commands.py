"""Starting commands in tests."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.commands import start

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(
    params=[signal.SIG_IGN, signal.SIG_DFL, signal.default_int_handler], ids=["ignored", "default", "caught"]
)
def handler(request: pytest.FixtureRequest) -> Iterator[object]:
    """This process's handler for both signals."""
    before = [signal.signal(number, request.param) for number in BOTH]
    yield request.param
    for number, was in zip(BOTH, before, strict=True):
        signal.signal(number, was)


@pytest.mark.parametrize("number", BOTH)
def test_command_ends_at_signal_ignored_by_parent(handler: object, number: signal.Signals) -> None:
    process = start([sys.executable, "-c", "print('ready', flush=True); input()"], stdin=-1, stdout=-1, stderr=-1)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == -number
    assert [signal.getsignal(each) for each in BOTH] == [handler, handler]


def test_failed_popen_restores_signal_handlers(handler: object) -> None:
    with pytest.raises(FileNotFoundError):
        start(["no-such-command-anywhere"], stdout=subprocess.PIPE)
    assert [signal.getsignal(each) for each in BOTH] == [handler, handler]
