"""The stage `collect`: writes `snapshots/` of a hashtag's newest posts, and `posts/` at the revisit after 7 days."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from raypipe import tables
from raypipe.collect.client import ApiClient
from raypipe.collect.revisit import revisit
from raypipe.collect.sources import SOURCES
from raypipe.collect.timeline import collect
from raypipe.config import Config
from raypipe.errors import ConfigError
from raypipe.progress import print_line
from raypipe.tables.record import RunRecord


def run(config: Config) -> RunRecord:
    """Collect the newest posts with a picture and a hashtag into `snapshots/`. With `collect.revisit`, request each
    post again `revisit_days` after it was collected, and write `posts/`. Returns the record of the written table.

    Raises ConfigError if instance or hashtag is invalid, InputError if the hashtag has no picture, and StageError if
    the instance refuses or revisits are not due yet (those that are due are done and kept).
    """
    instance, hashtag = _instance(config.collect.instance), _hashtag(config.collect.hashtag)
    return asyncio.run(_revisit(config, instance) if config.collect.revisit else _collect(config, instance, hashtag))


async def _collect(config: Config, instance: str, hashtag: str) -> RunRecord:
    options = config.collect
    wanted: dict[str, Any] = {"source": options.source, "instance": instance, "hashtag": hashtag}
    wanted["posts"] = options.posts
    run = tables.begin(
        config.open_storage(),
        "snapshots",
        command="collect",
        config={"collect": wanted},
        inputs={},
        overwrite=config.overwrite,
    )
    with run:
        if run.record:
            return run.record
        async with ApiClient(instance, options.requests_per_second, options.contact) as client:
            record = await collect(client, SOURCES[options.source], hashtag, run, options.posts)
    print_line(f"Collected {record.rows_out:,} posts with a picture, of {record.rows_in:,} posts with #{hashtag}")
    return record


async def _revisit(config: Config, instance: str) -> RunRecord:
    storage, options = config.open_storage(), config.collect
    snapshots_record = tables.get_record(storage, "snapshots")
    # The id of a post is valid only on the server that it was collected from.
    for name, value in {"source": options.source, "instance": instance}.items():
        collected_from = snapshots_record.config["collect"][name]
        if collected_from != value:
            raise ConfigError(f"collect.{name}: is {value}, but the snapshots are from {collected_from}; use that one")
    run = tables.begin(
        storage,
        "posts",
        command="collect",
        config={"collect": {"revisit_days": options.revisit_days}},
        inputs={"snapshots": snapshots_record.run_id},
        overwrite=config.overwrite,
    )
    with run:
        if run.record:
            return run.record
        snapshots = tables.read_table(storage, "snapshots")
        async with ApiClient(instance, options.requests_per_second, options.contact) as client:
            record = await revisit(
                client, SOURCES[options.source], run, snapshots, options.revisit_days, wait=options.wait
            )
    print_line(f"Revisited {record.rows_out:,} posts; {record.facts['deleted']:,} were deleted")
    return record


def _instance(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"collect.instance: {url!r} is not the URL of a server; use one such as https://mastodon.social"
        )
    return url.rstrip("/")


def _hashtag(tag: str) -> str:
    name = tag.strip().removeprefix("#")
    if not name or not all(letter.isalnum() or letter in "_·" for letter in name):
        raise ConfigError(f"collect.hashtag: {tag!r} is not a hashtag; use letters, digits and _, without #")
    # Servers ignore the case of hashtags.
    return name.lower()
