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
        found.insert(0, f"**It does not clearly beat {measured.metric.guess}**: its answers may be noise.")
    elif measured is not None and measured.metric.percent:
        wrong = f"{100 * (1 - measured.value):.0f} %"
        found.append(f"On pictures like those it was measured on, about {wrong} of its answers are wrong.")
    if measured is not None and measured.split == "val":
        found.append(
            "There are no test pictures. The best epoch was chosen on the pictures that it was measured on, so the "
            "true quality is probably lower than the table shows."
        )
    if config["head"] != "score":
        found.append("Its probabilities are not calibrated: answers with 0.8 are not always right in 80 % of cases.")
    size = config["image_size"]
    found.append(
        f"It sees the whole picture resized to {size} × {size} pixels. It does not see smaller details or the true "
        "proportions."
    )
    found.append(
        "Its quality for different groups of people was not measured. It learns what an audience prefers, and also "
        "prejudices about looks, age, sex and skin colour."
    )
    if data is None or not data.generated:
        found.append(
            "Its training pictures are real people's personal data. As in the paper, they were used without "
            "asking each person. You need a legal basis to share the model or the pictures. Leave deleted posts out of "
            "the next training."
        )
    return found


def _label_limits(data: TrainingData) -> list[str]:
    found = []
    if data.scheme in LIKES_SCHEMES:
        reach = ", regardless of reach" if data.scheme == "quantiles" else " relative to the author's reach"
        found.append(
            f"A label shows likes{reach}, in one collection of posts. It is not the quality of a picture or of a "
            "person. Likes also depend on the hour, the caption, the author's name and chance."
        )
    if data.scheme == "residual":
        found.append(
            "It was trained on the two extremes only. On the posts between them, it is less often right than measured "
            "here, and its probabilities may not show this."
        )
    if data.scheme == "hashtags":
        found.append("A hashtag is what the author wrote. The picture may show something else.")
    if data.eligible == "one_face":
        found.append(
            "It is for pictures in which dlib finds exactly one face. For other pictures, for example of groups or "
            "without a person, its answer has no meaning."
        )
    if data.date_range:
        found.append(f"Posts are from {data.date_range}. Tastes, cameras and filters change.")
    if leaked := data.users_on_two_sides:
        found.append(
            f"{leaked:,} users have posts in two splits, so it may partly recognise persons. "
            "`--label.split user` puts all posts of a user into one split."
        )
    return found
