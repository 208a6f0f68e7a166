"""The origin of every number: commands, options, versions, seconds by step and fingerprints of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raypipe.tables.record import RunRecord
from raypipe.tables.root_tables import RootTables

_LONGEST_FACT = 120


@dataclass(frozen=True)
class Provenance:
    """One stage's record as the page shows it. Options and facts are text."""

    table: str
    command: str
    run_id: str
    started: str
    seconds: float
    n_files: int
    n_bytes: int
    steps: dict[str, float]
    options: dict[str, str]
    facts: dict[str, str]
    inputs: dict[str, str]
    versions: dict[str, str]
    host: str


def build(root_tables: RootTables) -> list[Provenance]:
    """One entry per complete table, in the order in which the stages finished."""
    ordered = sorted(root_tables.records.items(), key=lambda item: item[1].finished_at)
    return [_describe(table, record) for table, record in ordered]


def shared_versions(stages: list[Provenance]) -> dict[str, str]:
    """The versions that are the same in all stages. Versions that differ are left out."""
    if not stages:
        return {}
    first = stages[0].versions
    return {name: value for name, value in first.items() if all(stage.versions.get(name) == value for stage in stages)}


def _describe(table: str, record: RunRecord) -> Provenance:
    return Provenance(
        table=table,
        command=f"raypipe {record.command}",
        run_id=record.run_id,
        started=f"{record.started_at:%Y-%m-%d %H:%M:%S} UTC",
        seconds=(record.finished_at - record.started_at).total_seconds(),
        n_files=len(record.files),
        n_bytes=sum(file.n_bytes for file in record.files),
        steps=record.seconds,
        options=flatten(record.config),
        facts={name: text for name, text in flatten(record.facts).items() if len(text) <= _LONGEST_FACT},
        inputs=record.inputs,
        versions=record.versions,
        host=record.host,
    )


def flatten(value: Any, prefix: str = "") -> dict[str, str]:
    """Nested values as text, by dotted name."""
    if isinstance(value, dict) and value:
        return {name: text for key, item in value.items() for name, text in flatten(item, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): _text(value)} if prefix else {}


def _text(value: Any) -> str:
    if value is None or value in ({}, []):
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
