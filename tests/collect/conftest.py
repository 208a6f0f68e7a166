"""A generated world and its feed, served by a separate process."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.world import pipeline
from raypipe.world.server import running_server


@pytest.fixture(scope="session")
def feed_world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A world of 100 posts without pictures."""
    root = str(tmp_path_factory.mktemp("feed"))
    config = load_config(root=root, seed=8, world={"posts": 100, "images": False})
    pipeline.run(config)
    return config


@pytest.fixture(scope="session")
def instance(feed_world: Config) -> Iterator[str]:
    """Base URL of the world's feed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with running_server(feed_world.open_storage(), port, rate_limit=10_000) as base:
        yield base
