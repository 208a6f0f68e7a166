"""Runs nginx on loopback during a benchmark."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.processes import cpu_of_tree

# The cheapest settings of nginx: no access log, files sent by the kernel, connections that stay open.
_CONFIGURATION = """
{user} daemon off; worker_processes 1; worker_rlimit_nofile 16384;
pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; keepalive_timeout 75s;
  types {{ image/jpeg jpg; }} default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {inside}
}}
"""


class Nginx:
    """A running nginx."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def cpu(self) -> float:
        """CPU seconds so far."""
        return cpu_of_tree(self._pid)


def program() -> str:
    """The path of nginx. Raises FileNotFoundError if it is not installed."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        raise FileNotFoundError("nginx is not installed (Debian: apt-get install nginx-light)")
    return found


def server(root: Path, addresses: Sequence[str], port: int, extra: str = "") -> str:
    """A server block that serves `root` on loopback addresses. `extra` is added to the block."""
    listen = " ".join(f"listen {address}:{port} backlog=4096;" for address in addresses)
    return f"server {{ {listen} root {root.resolve()}; {extra} }}"


@contextlib.contextmanager
def nginx(folder: Path, inside: str, address: tuple[str, int]) -> Iterator[Nginx]:
    """Run nginx with `inside` in its http block while the body runs. `address` is one that it listens on.

    Raises RuntimeError with nginx's own error text if it does not start.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_CONFIGURATION.format(user=user, folder=folder, inside=inside))
    command = [program(), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(process, address, folder / "error.log")
        yield Nginx(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def wait_for(process: subprocess.Popen[bytes], address: tuple[str, int], log: Path | None = None) -> None:
    """Wait until something listens at `address`. Raises RuntimeError if the process ends first, or after 20 s."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(address) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    said = log.read_text()[-2000:] if log and log.exists() else ""
    raise RuntimeError(f"no server at {address[0]}:{address[1]}: {said}")


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def warm(folder: Path) -> None:
    """Read all JPEGs of a folder, so that the first client, too, gets them from memory."""
    for path in folder.rglob("*.jpg"):
        path.read_bytes()
