"""Reading how a checkpoint was trained, also from changed metadata."""

from __future__ import annotations

import pytest

from raypipe.export.model.origin import form_of, options_of


@pytest.mark.parametrize("options", ["[" * 100_000, "[]", "5", "", "\0", '{"form": '])
def test_damaged_options_are_ignored(options: str) -> None:
    assert form_of({"options": options}, None) == "paper"
    assert options_of({"options": options}, "paper") == {}
