"""The top of the page: the run and its results in a headline, a sentence and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.report.funnel import COLLECTED, LABELLED, ONE_FACE, Funnel
from raypipe.report.measured import ACCURACY, Measured
from raypipe.report.regression import Regression
from raypipe.report.training import Row, Training


@dataclass(frozen=True)
class Fact:
    """One number in large type, and what it means."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Headline:
    """`title` in one line, `standfirst` in a sentence or two, and `facts`."""

    title: str
    standfirst: str
    facts: list[Fact]


def build(funnel: Funnel, regression: Regression | None, training: Training | None, classes: list[str]) -> Headline:
    """The headline about the last of these steps that was done: collecting, labelling, training."""
    best = training.best if training else None
    return Headline(
        _title(funnel, training, classes), _standfirst(funnel, regression, best), _facts(funnel, regression, best)
    )


def percent(share: float | None, digits: int = 1) -> str:
    """A share between 0 and 1 as percent. A dash if it is None."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _title(funnel: Funnel, training: Training | None, classes: list[str]) -> str:
    best = training.best if training else None
    if training is not None and best is not None and best.measured is not None:
        kind = training.target.kind
        claims = {"binary": _two_classes, "classes": _classes, "tags": _tags, "score": _score}
        # If the labels were made again with other classes, the training does not describe them.
        if kind == "binary" or set(classes) == (set(training.classes) if kind == "classes" else set()):
            claim = claims[kind](best.measured, classes)
            if claim:
                return f"Configuration {best.key} {claim}"
    labelled, collected = funnel.count(LABELLED), funnel.count(COLLECTED)
    if labelled is not None and collected is not None:
        return f"{labelled:,} labels from {collected:,} posts"
    return f"{collected:,} posts" if collected is not None else "An empty root"


def _two_classes(seen: Measured, classes: list[str]) -> str:
    if len(classes) != 2:
        return ""
    one, other = ("top", "bottom") if set(classes) == {"top", "bottom"} else (classes[0], classes[1])
    if seen.low <= seen.chance:
        return f"tells {one} from {other} no better than chance"
    return f"tells {one} from {other} in {percent(seen.value)} of {_unseen(seen)} pictures"


def _classes(seen: Measured, classes: list[str]) -> str:
    if seen.low <= seen.chance:
        return f"tells {len(classes)} classes apart no better than always naming the commonest"
    return f"names the right one of {len(classes)} classes for {percent(seen.value)} of {_unseen(seen)} pictures"


def _tags(seen: Measured, _: list[str]) -> str:
    told = sum(tag.beats_chance for tag in seen.tags)
    if told == 0:
        return f"recognises none of {len(seen.tags)} hashtags better than chance"
    return f"recognises {told} of {len(seen.tags)} hashtags better than chance in {_unseen(seen)} pictures"


def _score(seen: Measured, _: list[str]) -> str:
    if seen.low <= seen.chance:
        return "ranks pictures by their score no better than chance"
    explained = seen.further.get("r2")
    if explained is not None and explained > 0:
        return f"explains {percent(explained)} of the score’s variance in {_unseen(seen)} pictures"
    return f"ranks {_unseen(seen)} pictures by their score better than chance, but is no nearer to it than its mean"


def _unseen(seen: Measured) -> str:
    return "unseen test" if seen.split == "test" else "validation"


def _standfirst(funnel: Funnel, regression: Regression | None, best: Row | None) -> str:
    parts = []
    collected, labelled = funnel.count(COLLECTED), funnel.count(LABELLED)
    one_face = funnel.count(ONE_FACE)
    if collected is not None:
        text = f"From {collected:,} posts"
        text += f", {one_face:,} of them pictures of exactly one face" if one_face is not None else ""
        text += f", {labelled:,} were labelled" if labelled is not None else ""
        parts.append(f"{text}.")
    if regression is not None:
        parts.append(f"The regression explains {percent(regression.rsquared)} of the variance of likes.")
    seen = best.measured if best else None
    if best is not None and seen is not None:
        what = best.key if seen.measure is ACCURACY else f"{best.key}’s {seen.measure.name}"
        verb = "is" if seen.measure.guess == "chance" else "gives"
        guess = percent(seen.chance, 0) if seen.measure.percent else f"{seen.chance:g}"
        text = f"The 95 % interval of {what} is {seen.interval}; {seen.measure.guess} {verb} {guess}"
        text += f", a perfect judge of the same pictures reaches {percent(seen.ceiling)}" if seen.ceiling else ""
        parts.append(f"{text}.")
    return " ".join(parts)


def _facts(funnel: Funnel, regression: Regression | None, best: Row | None) -> list[Fact]:
    counts = ((COLLECTED, "posts collected"), (ONE_FACE, "with exactly one face"), (LABELLED, "pictures labelled"))
    facts = [Fact(f"{count:,}", text) for name, text in counts if (count := funnel.count(name)) is not None]
    if regression is not None:
        facts.append(Fact(f"{regression.rsquared:.3f}", "R² of the regression"))
    seen = best.measured if best else None
    if best is not None and seen is not None:
        meaning = f"{seen.measure.name} of {best.key} on {seen.n:,} {seen.split} pictures"
        facts.append(Fact(seen.measure.text(seen.value), meaning))
        if seen.ceiling is not None:
            facts.append(Fact(percent(seen.ceiling), "a perfect judge on the same pictures"))
    return facts
