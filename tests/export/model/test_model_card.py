"""A model card with hostile texts has the same structure as one with harmless texts, and shows them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from raypipe.config import Config
from raypipe.export.model import config_json
from raypipe.export.model.model_card import ExportedModel, model_card
from raypipe.export.model.torchvision_recipe import torchvision_recipe
from raypipe.export.model.training_origin import find_origin
from raypipe.predict.model import TrainedModel, checkpoint_metadata, read_checkpoint
from raypipe.tables.root_tables import RootTables
from raypipe.train.data.target import Target
from raypipe.train.networks.weights import VGG16
from tests.export.model.test_markdown import READER, Shown, words
from tests.hostile import TEXTS


def card_with(trained: Config, text: str, scheme: dict[str, Any]) -> str:
    """The card of train/A with `text` in each place that a user or another person can fill."""
    root_tables = RootTables.open(trained.open_storage())
    name, data = read_checkpoint(root_tables.storage, "train/A")
    model, kept = TrainedModel.from_bytes(data, name), checkpoint_metadata(data)
    origin = find_origin(root_tables, "train/A", name)
    assert origin is not None
    versions = {**origin.record.versions, "torch": text}
    record = origin.record.model_copy(update={"versions": versions, "dropped": {text: 3}})
    origin = replace(origin, record=record, trial=replace(origin.trial, trial=text))
    labels = root_tables.records["labels"]
    options = {**labels.config["label"], "formula": text, "column": text, "split": f"x{text}", **scheme}
    facts = {**labels.facts, "warnings": [text]}
    root_tables.records["labels"] = labels.model_copy(update={"config": {"label": options}, "facts": facts})
    head = type(model.head)(Target("binary", ("other", text)))
    config = config_json.config_dict(
        replace(model, head=head), kept, origin, torchvision_recipe(model, kept.get("model", VGG16))
    )
    config |= {"form": text, "weights_from": text}
    return model_card(ExportedModel(replace(model, head=head), config, origin, None, []), root_tables).decode()


def parts(card: str) -> list[str]:
    """The Markdown elements of the card. Code spans are left out, since a text may be written with or without one."""
    return [tag for tag in Shown(card.partition("\n---\n")[2]).tags if tag != "code"]


@pytest.mark.parametrize("scheme", [{}, {"scheme": "column"}], ids=["residual", "column"])
def test_card_shows_any_text_as_plain_text(trained: Config, scheme: dict[str, Any]) -> None:
    card = partial(card_with, trained, scheme=scheme)
    tame = parts(card("tame"))
    # tests/export/model/test_markdown.py tests the starts of texts in more detail.
    for start in range(0, len(TEXTS), 9):
        text = " ".join(TEXTS[start : start + 9])
        found = card(text)
        assert parts(found) == tame, text
        assert found.startswith("---\nlibrary_name: raypipe\n")
        assert Shown(found.partition("\n---\n")[2]).text.count(words(text)) >= 5
    assert READER.render(card("`")).count("<h1>") == 1
