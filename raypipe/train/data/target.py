"""What a model learns to tell from a picture: labels as numbers, and what the outputs stand for. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Kind = Literal["binary", "classes", "tags", "score"]


@dataclass(frozen=True)
class Target:
    """The kind of the labels and the names of their classes or tags, in the order of the outputs.

    `binary`: two classes, one logistic output, the probability of ``names[1]``. `classes`: three or more, a softmax
    output each. `tags`: any of them may hold at once, a sigmoid output each. `score`: a number, one linear output, no
    names. Raises ValueError where the number of names is not the kind's.
    """

    kind: Kind = "binary"
    names: tuple[str, ...] = ("0", "1")

    def __post_init__(self) -> None:
        n = len(self.names)
        fits = {"binary": n == 2, "classes": n > 2, "tags": n > 0, "score": n == 0}
        if not fits.get(self.kind, False):
            raise ValueError(f"{n} names do not make a head of kind {self.kind!r} ({', '.join(get_args(Kind))})")

    def __str__(self) -> str:
        shown = ", ".join(self.names[:6]) + (" …" if len(self.names) > 6 else "")
        return f"{self.kind} ({shown})" if self.names else self.kind

    @property
    def n_outputs(self) -> int:
        """Width of the last layer."""
        return len(self.names) if self.kind in ("classes", "tags") else 1

    def encode(self, labels: pa.ChunkedArray) -> NDArray[Any]:
        """`label` of ``labels/``, without nulls, as numbers.

        float32 [n] of 0 and 1 (`binary`), int64 [n] places in `names` (`classes`), float32 [n, tags] of 0 and 1
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

    def texts(self, labels: NDArray[Any]) -> list[str]:
        """`encode`d labels as ``predictions/`` shows them, one a picture, for `tags` one a picture and tag in turn.

        A tag that a picture does not carry is the empty text, so that a row is true where its label is its class.
        """
        if self.kind == "score":
            return [repr(float(value)) for value in labels]
        if self.kind == "tags":
            return [tag if held else "" for row in labels for tag, held in zip(self.names, row, strict=True)]
        return [self.names[int(code)] for code in labels]

    def as_metadata(self) -> dict[str, str]:
        """For a checkpoint, whose metadata are strings."""
        return {"head": self.kind, "classes": json.dumps(list(self.names))}

    @classmethod
    def from_metadata(cls, kept: Mapping[str, str]) -> Target | None:
        """What `as_metadata` wrote; None where a file says nothing of classes. Raises ValueError on anything else."""
        if "classes" not in kept:
            return None
        # Checkpoints from before there were other heads say nothing of theirs: it is of two classes.
        kind: Any = kept.get("head", "binary")
        return cls(kind, tuple(map(str, json.loads(kept["classes"]))))


BINARY = Target()
"""Two classes whatever they are called: what is learned where nothing else is said."""
