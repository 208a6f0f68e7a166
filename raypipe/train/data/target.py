"""The target that a model learns: labels as numbers, and the meaning of the outputs. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TargetKind = Literal["binary", "classes", "tags", "score"]


@dataclass(frozen=True)
class Target:
    """The kind of the labels and the names of their classes or tags, in the order of the outputs.

    `binary`: two classes, one logistic output, the probability of ``names[1]``. `classes`: three or more classes, one
    softmax output each. `tags`: any number of them per picture, one sigmoid output each. `score`: a number, one linear
    output, no names. Raises ValueError if the number of names does not fit the kind.
    """

    kind: TargetKind = "binary"
    names: tuple[str, ...] = ("0", "1")

    def __post_init__(self) -> None:
        n = len(self.names)
        fits = {"binary": n == 2, "classes": n > 2, "tags": n > 0, "score": n == 0}
        if not fits.get(self.kind, False):
            raise ValueError(f"{n} names do not fit a target of kind {self.kind!r} ({', '.join(get_args(TargetKind))})")

    def __str__(self) -> str:
        shown = ", ".join(self.names[:6]) + (" …" if len(self.names) > 6 else "")
        return f"{self.kind} ({shown})" if self.names else self.kind

    @property
    def n_outputs(self) -> int:
        """Width of the last layer."""
        return len(self.names) if self.kind in ("classes", "tags") else 1

    def encode(self, labels: pa.ChunkedArray) -> NDArray[Any]:
        """Labels as numbers, from the column `label` of ``labels/`` without nulls.

        float32 [n] of 0 and 1 (`binary`), int64 [n] positions in `names` (`classes`), float32 [n, tags] of 0 and 1
        (`tags`), float64 [n] (`score`).
        """
        if self.kind == "binary":
            positive = pc.equal(labels, self.names[1]).to_numpy(zero_copy_only=False)
            return np.asarray(positive, np.float32)
        if self.kind == "classes":
            return np.asarray(pc.index_in(labels, value_set=pa.array(self.names)).to_numpy(), np.int64)
        if self.kind == "score":
            return np.array(labels.to_numpy(), np.float64)
        carried = [[tag in found for tag in self.names] for found in labels.to_pylist()]
        return np.asarray(carried, np.float32).reshape(len(labels), len(self.names))

    def label_texts(self, labels: NDArray[Any]) -> list[str]:
        """Texts of `encode`d labels for ``predictions/``: one per picture; for `tags`, one per tag of each picture.

        The text of a tag that a picture does not carry is empty. So a row is true if its label equals its class.
        """
        if self.kind == "score":
            return [repr(float(value)) for value in labels]
        if self.kind == "tags":
            return [tag if held else "" for row in labels for tag, held in zip(self.names, row, strict=True)]
        return [self.names[int(code)] for code in labels]

    def as_metadata(self) -> dict[str, str]:
        """The target as metadata of a checkpoint, which are strings."""
        return {"head": self.kind, "classes": json.dumps(list(self.names))}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Target | None:
        """The target that `as_metadata` wrote. None if the file has no classes. Raises ValueError on anything else."""
        if "classes" not in metadata:
            return None
        # Checkpoints made before there were other heads do not name their head. It has two classes.
        kind: Any = metadata.get("head", "binary")
        return cls(kind, tuple(map(str, json.loads(metadata["classes"]))))


BINARY = Target()
"""The default target: two classes with any names."""
