"""Makes docs/options.md from the configuration: ``python -m docs.make_options``. A test compares the two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypipe.cli import allowed_values, default_text
from raypipe.config import Config
from raypipe.config.base import Section
from raypipe.stages import COMMON_SECTIONS, STAGES

PAGE = Path(__file__).parent / "options.md"
_HEAD = """# Options

All options, with defaults and units. This page is made from the configuration (`python -m docs.make_options`), as is
`raypipe STAGE --help`. In a YAML file, a section is a mapping: `label: {quantile: 0.2}`. On the command line, an option
is `--label.quantile 0.2`. Lists are `a,b` or `[a,b]`, and an option without a value means `true`. The result of a stage
does not depend on options with a *: they may differ when a command resumes.

## All commands

`--config FILE.yaml` reads options from a file. Those on the command line override it.
"""


def page() -> str:
    """The page as Markdown."""
    sections = {name: info.annotation for name, info in Config.model_fields.items() if _is_section(info)}
    parts = [_HEAD, _table("", {name: info for name, info in Config.model_fields.items() if name not in sections})]
    for name, kind in sections.items():
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        parts += [f"## {name}\n", f"{summary} Read by {_readers(name)}.\n", _table(f"{name}.", kind.model_fields)]
    return "\n".join(parts)


def _is_section(info: Any) -> bool:
    return isinstance(info.annotation, type) and issubclass(info.annotation, Section)


def _readers(section: str) -> str:
    if section in COMMON_SECTIONS:
        return "all commands"
    return ", ".join(f"`{name}`" for name, stage in STAGES.items() if section in stage.sections)


def _table(prefix: str, fields: dict[str, Any]) -> str:
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for name, info in fields.items():
        mark = "" if (info.json_schema_extra or {}).get("result", True) else " *"
        values = ", ".join(f"`{value}`" for value in allowed_values(info.annotation))
        default = default_text(info.default)
        shown = "" if info.default is None or not default else f"`{default}`"
        rows.append(f"| `--{prefix}{name}`{mark} | {shown} | {info.description}{f' ({values})' if values else ''} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
