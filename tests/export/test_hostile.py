"""Any class name and post id is safe in archives, folders and dataset cards, as other programs read them."""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from raypipe.export.dataset_card import dataset_card
from raypipe.export.export_plan import ExportPlan
from raypipe.export.parquet import make_schema
from raypipe.export.safe_names import folder_names
from raypipe.export.samples import ExportSample
from raypipe.export.tar import TarShard
from tests.hostile import LEADS_OUT, NAMES, TEXTS

EVERY = sorted({*TEXTS, *NAMES, *LEADS_OUT, "con", "NUL", "aux", "a" * 300})


def test_archive_extracts_within_its_folder(tmp_path: Path) -> None:
    shard = TarShard()
    for code, text in enumerate(EVERY):
        shard.add(ExportSample(0, 0, "train", text, b"x", "JPEG", text, code, None, 1, 1, None, None))
    with tarfile.open(fileobj=io.BytesIO(shard.finish())) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path / "out", filter="data")
    assert all(re.fullmatch(r"[a-z0-9~][a-z0-9_~-]*\.(jpg|cls|json)", name) for name in names)
    assert len({name.casefold() for name in names}) == 3 * len(EVERY)
    found = [json.loads(file.read_text()) for file in (tmp_path / "out").glob("*.json")]
    assert sorted(about["post_id"] for about in found) == sorted(about["label"] for about in found) == EVERY
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_folder_names_are_plain_and_unique() -> None:
    folders = folder_names(EVERY)
    assert len({folder.casefold() for folder in folders.values()}) == len(EVERY)
    assert all(re.fullmatch(r"[A-Za-z0-9~][A-Za-z0-9_~-]{0,113}", folder) for folder in folders.values())
    assert not {"con", "nul", "aux"} & {folder.casefold() for folder in folders.values()}


def test_dataset_card_holds_any_class_name_unbroken(hf: Any) -> None:
    from huggingface_hub import DatasetCard

    none = np.zeros(0, np.int64)
    plan = ExportPlan(
        ("train",), none.astype(np.int8), none, none, None, "class", tuple(EVERY), 0, Counter(), {"train": 0}
    )
    schema = make_schema("class", plan.classes)
    assert hf.Features.from_arrow_schema(schema)["label"].names == EVERY
    card = DatasetCard(dataset_card(plan, schema).decode(), ignore_metadata_errors=False)
    (label,) = (item for item in card.data.dataset_info["features"] if item["name"] == "label")
    assert label["dtype"]["class_label"]["names"] == {str(i): name for i, name in enumerate(EVERY)}
    assert card.text.startswith("\n# Pictures exported by raypipe\n")
