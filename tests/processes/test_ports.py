"""Free and taken ports, with real sockets."""

from __future__ import annotations

import socket

import pytest

from raypipe.processes.ports import HOST, usable_port


def test_free_port_is_returned_and_stays_free(free_port: int) -> None:
    assert usable_port(free_port) == usable_port(free_port) == free_port


def test_zero_gives_any_free_port() -> None:
    assert 0 < usable_port(0) < 65536


def test_taken_port_raises_error(free_port: int) -> None:
    with socket.socket() as server:
        server.bind((HOST, free_port))
        server.listen()
        with pytest.raises(OSError, match="in use"):
            usable_port(free_port)
