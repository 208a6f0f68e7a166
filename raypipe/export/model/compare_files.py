"""Checks that a written file gives the same answers as the model, on real pictures of the validation set."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from raypipe import tables
from raypipe.errors import InputError
from raypipe.export.model.graph import GraphError
from raypipe.pictures.decoding import Undecodable, decode_square, picture_decoder
from raypipe.tables.root_tables import RootTables
from raypipe.train.networks.heads import Head, Predictions, ScoreHead

MAX_DIFFERENCE = 1e-3
"""Largest allowed difference of a probability, or of a score in standard deviations. Rounding in float32 stays far
below it. A wrong channel order, a wrong normalisation or a missing layer exceeds it."""


@dataclass(frozen=True)
class ValidationSample:
    """Validation pictures, uint8 [n, 3, s, s]. `dropped` counts the other validation posts by reason."""

    pictures: NDArray[np.uint8]
    dropped: Counter[str]

    @property
    def rows_in(self) -> int:
        """The number of labelled validation posts."""
        return len(self.pictures) + self.dropped.total()


@dataclass(frozen=True)
class OutputComparison:
    """How far a file, run by `reader`, differs from the model on `pictures`: the largest absolute difference of a
    probability (of a score, in its unit) and the number of changed decisions (None for scores)."""

    file: str
    reader: str
    pictures: int
    largest_difference: float
    changed_decisions: int | None

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON types, for the record."""
        return asdict(self)

    @property
    def result_text(self) -> str:
        """The result as text."""
        said = f"by {self.reader} on {self.pictures:,} validation pictures: "
        said += f"largest difference {self.largest_difference:.1e}" if self.largest_difference else "no difference"
        if self.changed_decisions is None or not self.largest_difference:
            return said
        changed = self.changed_decisions
        return f"{said}, {changed or 'no'} decision{'s' if changed > 1 else ''} changed"


def validation_sample(root_tables: RootTables, size: int, at_most: int) -> ValidationSample:
    """At most `at_most` labelled validation pictures, spread evenly over their post_ids, of `size` pixels a side.

    Raises InputError if none of them can be read.
    """
    storage = root_tables.storage
    rows = tables.read_table(
        storage, "labels", ["post_id"], where=(pc.field("split") == "val") & pc.field("label").is_valid()
    )
    ids = sorted(rows["post_id"].to_pylist())
    places = np.linspace(0, len(ids) - 1, min(at_most, len(ids))).round().astype(int)
    chosen = [ids[place] for place in places]
    dropped = Counter({"not_sampled": len(ids) - len(chosen)})
    stored = root_tables.pictures(chosen)
    available_ids = [post_id for post_id in chosen if post_id in stored]
    dropped["no_picture"] = len(chosen) - len(available_ids)
    with picture_decoder(partial(decode_square, side=size)) as decode:
        decoded = [decode(stored[post_id]) for post_id in available_ids]
    found = [pixels for pixels in decoded if not isinstance(pixels, Undecodable)]
    dropped["undecodable"] = len(available_ids) - len(found)
    if not found:
        raise InputError(
            f"{storage.uri('images')}: no readable picture in the split val; the written files cannot be checked"
        )
    return ValidationSample(np.stack(found), +dropped)


def compare_outputs(
    file: str, reader: str, head: Head, model_outputs: Predictions, file_outputs: Predictions
) -> OutputComparison:
    """Compare [n] or [n, k]. GraphError if they differ by over `MAX_DIFFERENCE` or in shape, or are not finite."""
    if model_outputs.shape != file_outputs.shape:
        raise GraphError(
            f"{file}: {reader} gives the shape {list(file_outputs.shape)}, the model {list(model_outputs.shape)}"
        )
    largest = float(np.abs(model_outputs.astype(np.float64) - file_outputs).max())
    unit = head.sd if isinstance(head, ScoreHead) else 1.0
    if not largest <= MAX_DIFFERENCE * unit:
        raise GraphError(
            f"{file}: {reader} differs from the model by {largest:.3g} on a validation picture, more than "
            f"{MAX_DIFFERENCE * unit:.3g}; it is not written, please report this network"
        )
    changed = None if head.target.kind == "score" else _count_changed(head.target.kind, model_outputs, file_outputs)
    return OutputComparison(file, reader, len(model_outputs), largest, changed)


def _count_changed(kind: str, model_outputs: Predictions, file_outputs: Predictions) -> int:
    if kind == "classes":
        return int((model_outputs.argmax(1) != file_outputs.argmax(1)).sum())
    return int(((model_outputs > 0.5) != (file_outputs > 0.5)).sum())
