"""The parts of every section: options with a description, and types that check and convert their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Section(BaseModel):
    """A group of options. Unknown names are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, allow_inf_nan=False)


def split_list(value: Any) -> Any:
    """A list from the text `a,b` or `[a,b]` of the command line, or from one number. Other values stay unchanged."""
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]")
        return [item.strip() for item in text.split(",") if item.strip()]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def split_formulas(value: Any) -> Any:
    """A list of formulas from a text in which semicolons separate them, because formulas contain commas."""
    return [item.strip() for item in value.split(";") if item.strip()] if isinstance(value, str) else value


def check_name(value: str) -> str:
    """`value`, if it can name a folder or a file. Raises ValueError, which says what is allowed, if not."""
    if not _NAME.fullmatch(value):
        raise ValueError("a name has 1 to 64 characters of A-Z a-z 0-9 . _ - and begins with a letter or a digit")
    return value


def check_path(value: str) -> str:
    """`value`, if it can be a path or a URI. Raises ValueError with the reason if not."""
    if "\0" in value:
        raise ValueError("a path cannot contain a NUL character")
    try:
        Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no home directory {Path(value).parts[0]}") from error
    return value


def check_local_folder(value: str) -> str:
    """`value`, if it can be a folder of this machine. Raises ValueError with the reason if not."""
    if "://" in value:
        raise ValueError("it must be a directory on each machine, not a URI")
    if not value:
        raise ValueError("it must name a directory")
    return check_path(value)


Name = Annotated[str, AfterValidator(check_name)]
"""The type of options that become the name of a folder or a file."""
NameOrEmpty = Annotated[str, AfterValidator(lambda value: value and check_name(value))]
"""`Name` for an option that only one stage needs: empty if not set."""
AnyPath = Annotated[str, AfterValidator(check_path)]
"""The type of options that are a path, a URI, or a name or a path. ``~`` is the home directory."""
LocalFolder = Annotated[str, AfterValidator(check_local_folder)]
"""The type of options that are a directory of this machine."""
StringList = Annotated[list[str], BeforeValidator(split_list)]
IntList = Annotated[list[int], BeforeValidator(split_list)]
Share = Annotated[float, Field(ge=0, le=1)]
ConfigurationLetter = Literal["A", "B", "C", "D"]
"""A training configuration (`train/networks/configurations.py`)."""
CONFIGURATION_LETTERS: tuple[ConfigurationLetter, ...] = get_args(ConfigurationLetter)
DEFAULT_EPOCHS: dict[str, int] = {"A": 12, "B": 9, "C": 8, "D": 20}
"""Default epochs per configuration, from the paper's table 1."""


def option(default: Any, description: str, *, result: bool = True, **limits: Any) -> Any:
    """A pydantic field. `result=False` marks an option that the result of a stage does not depend on."""
    return Field(default, description=description, json_schema_extra={"result": result}, **limits)


FailedStatus = Literal[
    "gone",
    "forbidden",
    "rate_limited",
    "server_error",
    "timeout",
    "connection",
    "dns",
    "blocked",
    "redirects",
    "too_large",
    "not_an_image",
    "truncated",
    "too_many_pixels",
    "invalid_url",
]
"""The status in `images/` of a picture that was requested but not stored."""
