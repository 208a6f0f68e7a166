"""What users of an exported model must know first, from how its labels were made and how it was measured."""

from __future__ import annotations

from typing import Any

from raypipe.export.model.model_results import ModelResults
from raypipe.export.model.training_data import TrainingData

LIKES_SCHEMES = ("residual", "karpathy", "continuous", "quantiles")
"""Schemes that make labels from likes."""


def limit_sentences(config: dict[str, Any], data: TrainingData | None, results: ModelResults | None) -> list[str]:
    """The limits as sentences, the most important first."""
    found = _label_limits(data) if data is not None else []
    measured = results.test_or_val if results is not None else None
    if measured is not None and not measured.low > measured.chance:
        found.insert(0, f"**Nothing shows that it beats {measured.metric.guess}**: its answers may be noise.")
    elif measured is not None and measured.metric.percent:
        wrong = f"{100 * (1 - measured.value):.0f} %"
        found.append(f"About {wrong} of its answers on pictures like those it was measured on are wrong.")
    if measured is not None and measured.split == "val":
        found.append(
            "No test pictures were set apart: the epoch was chosen on the pictures that it was measured on, so that it "
            "is less good than the table says."
        )
    if config["head"] != "score":
        found.append("Its probabilities have not been calibrated: 0.8 need not be right in 80 % of cases.")
    size = config["image_size"]
    found.append(
        f"It sees the whole picture squeezed to {size} × {size} pixels: what is smaller, and the picture's true "
        "proportions, it does not see."
    )
    found.append(
        "How good it is for one group of people or another has not been measured. What an audience prefers, it learns, "
        "prejudices about looks, age, sex and skin among the rest."
    )
    if data is None or not data.generated:
        found.append(
            "Its training pictures are real people's personal data, used without asking each of them, as in the paper. "
            "Whoever shares the model or the pictures needs a ground for it in law; whose post is deleted should "
            "be left out at the next training."
        )
    return found


def _label_limits(data: TrainingData) -> list[str]:
    found = []
    if data.scheme in LIKES_SCHEMES:
        reach = ", whatever the author's reach" if data.scheme == "quantiles" else " relative to the author's reach"
        found.append(
            f"A label is about likes{reach}, of one collection of posts. It is not the quality of a picture, still "
            "less that of a person; likes also come from the hour, the caption, the author's name and chance."
        )
    if data.scheme == "residual":
        found.append(
            "It has seen the two extremes alone. On the posts between them it is less often right than measured here, "
            "and its probabilities need not show it."
        )
    if data.scheme == "hashtags":
        found.append("A hashtag is what an author wrote, which need not be what the picture shows.")
    if data.eligible == "one_face":
        found.append(
            "It is for pictures with exactly one face, as dlib finds them: of others, group pictures and pictures "
            "without a person among them, its answer means nothing."
        )
    if data.date_range:
        found.append(f"Posts are from {data.date_range}: tastes, cameras and filters change.")
    if leaked := data.users_on_two_sides:
        found.append(
            f"{leaked:,} users have posts on two sides of the split: some of its accuracy may be "
            "recognising a person. `--label.split user` keeps each on one side."
        )
    return found
