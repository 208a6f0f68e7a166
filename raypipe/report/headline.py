"""The top of the page: the run and its results in a headline, a sentence and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.report.funnel import COLLECTED, LABELLED, ONE_FACE, FunnelCounts
from raypipe.report.model_quality import ACCURACY, MetricResult
from raypipe.report.regression import Regression
from raypipe.report.training_results import Table1Row, TrainingResults


@dataclass(frozen=True)
class HeadlineNumber:
    """One number in large type, and what it means."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Headline:
    """`title` in one line, `standfirst` in a sentence or two, and `facts`."""

    title: str
    standfirst: str
    facts: list[HeadlineNumber]


def build(
    funnel: FunnelCounts, regression: Regression | None, training: TrainingResults | None, classes: list[str]
) -> Headline:
    """The headline about the last of these steps that was done: collecting, labelling, training."""
    best = training.best if training else None
    return Headline(
        _title(funnel, training, classes), _standfirst(funnel, regression, best), _facts(funnel, regression, best)
    )


def percent(share: float | None, digits: int = 1) -> str:
    """A share between 0 and 1 as percent. A dash if it is None."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _title(funnel: FunnelCounts, training: TrainingResults | None, classes: list[str]) -> str:
    best = training.best if training else None
    if training is not None and best is not None and best.measured is not None:
        kind = training.target.kind
        claims = {"binary": _binary_claim, "classes": _classes_claim, "tags": _tags_claim, "score": _score_claim}
        # If the labels were made again with other classes, the training does not describe them.
        if kind == "binary" or set(classes) == (set(training.classes) if kind == "classes" else set()):
            claim = claims[kind](best.measured, classes)
            if claim:
                return f"Configuration {best.key} {claim}"
    labelled, collected = funnel.count(LABELLED), funnel.count(COLLECTED)
    if labelled is not None and collected is not None:
        return f"{labelled:,} labels from {collected:,} posts"
    return f"{collected:,} posts" if collected is not None else "An empty root"


def _binary_claim(result: MetricResult, classes: list[str]) -> str:
    if len(classes) != 2:
        return ""
    one, other = ("top", "bottom") if set(classes) == {"top", "bottom"} else (classes[0], classes[1])
    if result.low <= result.chance:
        return f"separates {one} from {other} no better than chance"
    return f"separates {one} from {other} in {percent(result.value)} of {_split_words(result)} pictures"


def _classes_claim(result: MetricResult, classes: list[str]) -> str:
    if result.low <= result.chance:
        return f"separates {len(classes)} classes no better than always naming the most frequent"
    return (
        f"names the right one of {len(classes)} classes for {percent(result.value)} of {_split_words(result)} pictures"
    )


def _tags_claim(result: MetricResult, _: list[str]) -> str:
    n_recognised = sum(tag.beats_chance for tag in result.tags)
    if n_recognised == 0:
        return f"recognises none of {len(result.tags)} hashtags better than chance"
    tags = f"{n_recognised} of {len(result.tags)} hashtags"
    return f"recognises {tags} better than chance in {_split_words(result)} pictures"


def _score_claim(result: MetricResult, _: list[str]) -> str:
    if result.low <= result.chance:
        return "ranks pictures by their score no better than chance"
    explained = result.further.get("r2")
    if explained is not None and explained > 0:
        return f"explains {percent(explained)} of the score’s variance in {_split_words(result)} pictures"
    return f"ranks {_split_words(result)} pictures by score better than chance, but predicts it no better than its mean"


def _split_words(result: MetricResult) -> str:
    return "unseen test" if result.split == "test" else "validation"


def _standfirst(funnel: FunnelCounts, regression: Regression | None, best: Table1Row | None) -> str:
    parts = []
    collected, labelled = funnel.count(COLLECTED), funnel.count(LABELLED)
    one_face = funnel.count(ONE_FACE)
    if collected is not None:
        text = f"{collected:,} posts were collected"
        text += f", {one_face:,} of them with exactly one face" if one_face is not None else ""
        text += f"; {labelled:,} were labelled" if labelled is not None else ""
        parts.append(f"{text}.")
    if regression is not None:
        parts.append(f"The regression explains {percent(regression.rsquared)} of the variance of likes.")
    result = best.measured if best else None
    if best is not None and result is not None:
        what = best.key if result.metric is ACCURACY else f"{best.key}’s {result.metric.name}"
        verb = "is" if result.metric.guess == "chance" else "gives"
        guess = percent(result.chance, 0) if result.metric.percent else f"{result.chance:g}"
        text = f"The 95 % interval of {what} is {result.interval}; {result.metric.guess} {verb} {guess}"
        text += f", a perfect judge of the same pictures reaches {percent(result.ceiling)}" if result.ceiling else ""
        parts.append(f"{text}.")
    return " ".join(parts)


def _facts(funnel: FunnelCounts, regression: Regression | None, best: Table1Row | None) -> list[HeadlineNumber]:
    counts = ((COLLECTED, "posts collected"), (ONE_FACE, "with exactly one face"), (LABELLED, "pictures labelled"))
    facts = [HeadlineNumber(f"{count:,}", text) for name, text in counts if (count := funnel.count(name)) is not None]
    if regression is not None:
        facts.append(HeadlineNumber(f"{regression.rsquared:.3f}", "R² of the regression"))
    result = best.measured if best else None
    if best is not None and result is not None:
        meaning = f"{result.metric.name} of {best.key} on {result.n:,} {result.split} pictures"
        facts.append(HeadlineNumber(result.metric.text(result.value), meaning))
        if result.ceiling is not None:
            facts.append(HeadlineNumber(percent(result.ceiling), "a perfect judge on the same pictures"))
    return facts
