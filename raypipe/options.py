"""Filling the configuration from a YAML file and the command line; every mistake is one line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raypipe.config import Config, Section
from raypipe.errors import ConfigError

TOP_LEVEL = ("config", "root", "seed", "posts", "limit", "overwrite", "debug")


def load_config(file: str | Path | None = None, overrides: Mapping[str, Any] | None = None, **sections: Any) -> Config:
    """The configuration from a YAML `file`, then `sections` (``root="run"``, ``label={"quantile": 0.2}``), then
    `overrides` by dotted name. Raises ConfigError naming the option, its value and what is allowed.
    """
    values = _read_yaml(file) if file is not None else {}
    for name, value in sections.items():
        values[name] = {**values.get(name, {}), **value} if isinstance(value, Mapping) else value
    for name, value in (overrides or {}).items():
        section, _, option = name.partition(".")
        if option:
            if not isinstance(values.setdefault(section, {}), dict):
                raise ConfigError(f"{section}: is a section of options, not a value")
            values[section][option] = value
        else:
            values[name] = value
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, f" (in {file})" if file else "")) from error


def parse_arguments(arguments: Sequence[str]) -> dict[str, Any]:
    """Dotted option names and values from ``--section.option value``, ``--option=value`` and bare ``--flag``."""
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word}: is not an option; options are --section.option VALUE (see --help)")
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        known = option_names()
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"--{name}: unknown option{f'; did you mean --{close[0]}?' if close else ' (see --help)'}"
            )
        found[name] = None if value in ("null", "none") else _as_mapping(value)
    return found


def _as_mapping(value: str) -> Any:
    # `--train.epochs {A: 3, B: 2}`: one value a configuration.
    if value.startswith("{"):
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{value}: cannot be read as a mapping such as {{A: 3, B: 2}}") from error
    return value


def option_names() -> list[str]:
    """Every option as the command line names it."""
    names = list(TOP_LEVEL)
    for section, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            names += [f"{section}.{option}" for option in info.annotation.model_fields]
    return names


def _read_yaml(file: str | Path) -> dict[str, Any]:
    try:
        text = Path(file).read_text()
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read: {error.strerror}") from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"--config {file}: is not YAML{where}: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {file}: must hold sections of options, found {type(values).__name__}")
    return values


def _explain(error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    name = ".".join(
        str(part) for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part in _TYPES))
    )
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, option_names(), n=1, cutoff=0.5)
        return f"{name}: unknown option{where}{f'; did you mean {close[0]}?' if close else ''}"
    reason = first["msg"].removeprefix("Value error, ")
    allowed = f"{reason[0].lower()}{reason[1:]}"
    return f"{name}: {first['input']!r} is not allowed{where}: {allowed}"


# pydantic names the members of a union as parts of the location.
_TYPES = {"int", "float", "str", "bool", "dict"}
