"""Checks whether a server could listen on a loopback port."""

from __future__ import annotations

import socket
import sys

HOST = "127.0.0.1"


def usable_port(wanted: int) -> int:
    """`wanted` if it is free, or any free port for 0. Raises OSError if it cannot be used.

    A port that a closed connection still uses for a minute counts as free, as it does for servers.
    """
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, wanted))
        return int(probe.getsockname()[1])
