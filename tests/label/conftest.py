"""A root with posts and images."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raypipe.config import Config
from tests.label.roots import made_images, made_posts, put


@pytest.fixture
def world(config: Config) -> tuple[Config, pa.Table, pa.Table]:
    posts = made_posts()
    images = made_images(posts)
    put(config, "posts", posts)
    put(config, "images", images)
    return config, posts, images
