"""What every section is made of: options with a description, and lists as the command line writes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A group of options; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True, allow_inf_nan=False)


def split_list(value: Any) -> Any:
    """A list as the command line gives it: `a,b` or `[a,b]`."""
    if isinstance(value, str):
        text = value.strip().removeprefix("[").removesuffix("]")
        return [item.strip() for item in text.split(",") if item.strip()]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def split_formulas(value: Any) -> Any:
    """Formulas between semicolons, as they have commas of their own."""
    return [item.strip() for item in value.split(";") if item.strip()] if isinstance(value, str) else value


StringList = Annotated[list[str], BeforeValidator(split_list)]
IntList = Annotated[list[int], BeforeValidator(split_list)]
Share = Annotated[float, Field(ge=0, le=1)]
Letter = Literal["A", "B", "C", "D"]


def option(default: Any, description: str, *, result: bool = True, **limits: Any) -> Any:
    """A pydantic field; `result=False` marks what the result of a stage does not depend on."""
    return Field(default, description=description, json_schema_extra={"result": result}, **limits)
