"""The figures in the paper, each with its section. The report shows them beside those of the run."""

from __future__ import annotations

from dataclasses import dataclass

CITATION = (
    "Merrick, Cassady, Banerjee: Exploration of Automatic Label Generation from Social Media "
    "through Classification of Instagram Selfies"
)

COLLECTED = 486_149
"""Posts collected (section 3)."""
PRESENT = 429_183
"""Posts that still existed at the revisit after seven days (section 3)."""
USERS = 311_475
"""Users of the posts that still existed (section 3)."""
COMMENTS = 1_500_967
"""Comments on the posts that still existed (section 3)."""
WITH_FACE = 232_971
"""Posts with at least one face found by dlib (section 3)."""
ONE_FACE = 200_545
"""Posts with exactly one face (section 3)."""
LABELLED = 40_109
"""Posts in the top and the bottom decile of the score (section 3.1)."""


@dataclass(frozen=True)
class PaperResult:
    """One row of the paper's table 1 (section 5.3). Accuracies are shares of the validation pictures."""

    max_val_accuracy: float
    epochs: int
    final_val_accuracy: float


TABLE_1 = {
    "A": PaperResult(0.678814, 12, 0.66873),
    "B": PaperResult(0.691627, 9, 0.659145),
    "C": PaperResult(0.710430, 8, 0.687167),
    "D": PaperResult(0.719316, 20, 0.681343),
}


@dataclass(frozen=True)
class HumanResult:
    """One row of the paper's table 2 (section 5.3)."""

    name: str
    pictures: int
    accuracy: float


TABLE_2 = (HumanResult("Person A", 50, 0.61), HumanResult("Person B", 50, 0.76))
