"""A small world on disk, made without Ray and shared by the tests of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from raypipe import tables
from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.storage import Storage
from raypipe.world import pipeline
from raypipe.world.pictures import draw_unit, drawing_units
from raypipe.world.posts import GeneratedPosts, generate_posts

SEED = 3


def write_world(root: Path, posts: int, misbehave: float = 0.0) -> Config:
    """Write `posts/`, `truth/` and `pictures/` of a world. The pictures are drawn in this process."""
    options = {"posts": posts, "misbehave": misbehave, "images": False}
    config = load_config(root=str(root), seed=SEED, world=options, ray={"dashboard": False, "num_cpus": 2})
    pipeline.run(config)
    world = generate_posts(config.world, SEED)
    with tables.begin(config.open_storage(), "pictures", command="world", config={}, inputs={}) as run:
        for drawing_unit in drawing_units(world):
            run.writer.write(drawing_unit.unit, draw_unit(drawing_unit, SEED))
        run.commit(rows_in=world.counts.present)
    return config


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A world of 40 posts without misbehaving pictures."""
    return write_world(tmp_path_factory.mktemp("world"), 40)


@pytest.fixture(scope="session")
def world_storage(world: Config) -> Storage:
    """The storage of the shared world."""
    return world.open_storage()


@pytest.fixture(scope="session")
def world_posts(world: Config) -> GeneratedPosts:
    """The generated posts of the shared world."""
    return generate_posts(world.world, SEED)
