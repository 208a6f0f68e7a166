"""Fills the configuration from a YAML file and the command line. Every error is one line."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raypipe.config import Config
from raypipe.config.base import Section
from raypipe.errors import ConfigError

TOP_LEVEL = ("config", "root", "seed", "posts", "limit", "overwrite", "debug")


def load_config(file: str | Path | None = None, overrides: Mapping[str, Any] | None = None, **sections: Any) -> Config:
    """The configuration from a YAML `file`, then `sections` (``root="run"``, ``label={"quantile": 0.2}``), then
    `overrides` by dotted name. Raises ConfigError, which names the option, its value and what is allowed.
    """
    values = _sections(_read_yaml(file)) if file is not None else {}
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
        raise ConfigError(_explain(error, file, overrides or {})) from error


def parse_arguments(arguments: Sequence[str], short: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Options by dotted name from ``--section.option value``, ``--option=value`` and bare ``--flag``.

    `short` maps short names of this command to dotted names. Raises ConfigError for unknown options and missing values.
    """
    short = short or {}
    found: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word}: is not an option; options are --section.option VALUE (see --help)")
        name, equals, value = word[2:].partition("=")
        known = option_names()
        name = short.get(name, name)
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *short], n=1)
            raise ConfigError(
                f"--{name}: unknown option{f'; did you mean --{close[0]}?' if close else ' (see --help)'}"
            )
        if not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        elif not equals:
            if bool not in _alternatives(name):
                raise ConfigError(f"--{name}: needs a value; only true/false options can have none")
            value = "true"
        # `none` is a normal value of some options, such as train.save.
        clears = value in ("null", "none") and NoneType in _alternatives(name)
        found[name] = None if clears else _as_mapping(name, value)
    return found


def _as_mapping(name: str, value: str) -> Any:
    # `--train.epochs {A: 3, B: 2}`: one value per configuration.
    if value.startswith("{"):
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--{name} {value}: cannot be read as a mapping such as {{A: 3, B: 2}}") from error
    return value


def _alternatives(name: str) -> tuple[Any, ...]:
    """The type of an option, or the members of its union."""
    section, _, option = name.rpartition(".")
    fields: Mapping[str, FieldInfo] = Config.model_fields
    if section:
        kind = fields[section].annotation
        fields = kind.model_fields if isinstance(kind, type) and issubclass(kind, Section) else {}
    annotation = fields[option].annotation if option in fields else None
    return get_args(annotation) or (annotation,)


def option_names() -> list[str]:
    """The names of all options on the command line."""
    names = list(TOP_LEVEL)
    for section, info in Config.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            names += [f"{section}.{option}" for option in info.annotation.model_fields]
    return names


def default_of(name: str) -> Any:
    """The default of an option by dotted name, as a JSON type. None if it has none, or if there is no such option."""
    found: Any = _defaults()
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


@functools.cache
def _defaults() -> dict[str, Any]:
    return Config().model_dump(mode="json")


def _read_yaml(file: str | Path) -> dict[str, Any]:
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--config {file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"--config {file}: is not valid YAML{where}: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {file}: must contain sections of options, but contains a {type(values).__name__}")
    return values


def _sections(values: Mapping[str, Any]) -> dict[str, Any]:
    # A file may contain dotted names of options, as on the command line, and empty sections.
    found: dict[str, Any] = {}
    for name, value in values.items():
        section, _, option = str(name).partition(".")
        addition = {option: value} if option else value
        if isinstance(addition, dict) and isinstance(found.get(section), dict):
            found[section].update(addition)
        elif addition is not None or section in TOP_LEVEL:
            found[section] = addition
    return found


def _explain(error: ValidationError, file: str | Path | None, overrides: Mapping[str, Any]) -> str:
    # For an option with alternatives (one number, or one per configuration), the deepest error is the relevant one.
    option = error.errors()[0]["loc"][:2]
    first = max((e for e in error.errors() if e["loc"][:2] == option), key=lambda e: len(e["loc"]))
    name = ".".join(
        str(part) for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part in _TYPES))
    )
    typed = any(name == given or name.startswith(f"{given}.") for given in overrides)
    where = f" (in {file})" if file and not typed else ""
    if first["type"] == "extra_forbidden":
        candidates = [*Config.model_fields, *option_names()[1:]]
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
        return f"{name}: unknown option{where}{f'; did you mean {close[0]}?' if close else ''}"
    if first["type"].startswith("model_"):
        return f"{name}: {first['input']!r} is not allowed{where}: {name} is a section of options"
    reason = first["msg"].removeprefix("Value error, ")
    allowed = f"{reason[0].lower()}{reason[1:]}"
    return f"{name}: {first['input']!r} is not allowed{where}: {allowed}"


# pydantic includes the members of a union in the location of an error.
_TYPES = {"int", "float", "str", "bool", "dict"}
