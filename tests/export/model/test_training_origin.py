"""Reading how a checkpoint was trained, also from changed metadata."""

from __future__ import annotations

import pytest

from raypipe.export.model.training_origin import training_form, trial_options


@pytest.mark.parametrize("options", ["[" * 100_000, "[]", "5", "", "\0", '{"form": '])
def test_damaged_options_are_ignored(options: str) -> None:
    assert training_form({"options": options}, None) == "paper"
    assert trial_options({"options": options}, "paper") == {}
