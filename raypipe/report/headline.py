"""The top of the page: what was run and what came of it, in a headline, a sentence and a few numbers."""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.report.funnel import COLLECTED, LABELLED, ONE_FACE, Funnel
from raypipe.report.regression import Regression
from raypipe.report.training import Row, Training


@dataclass(frozen=True)
class Fact:
    """One large number and what it counts."""

    value: str
    meaning: str


@dataclass(frozen=True)
class Headline:
    """`title` in one line, `standfirst` in a sentence or two, and `facts`."""

    title: str
    standfirst: str
    facts: list[Fact]


def build(funnel: Funnel, regression: Regression | None, training: Training | None, classes: list[str]) -> Headline:
    """The headline of what is there: trained, labelled, or only collected."""
    best = training.best if training else None
    return Headline(
        _title(funnel, best, classes), _standfirst(funnel, regression, best), _facts(funnel, regression, best)
    )


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 1 in percent; a dash where it is not known."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _title(funnel: Funnel, best: Row | None, classes: list[str]) -> str:
    if best is not None and best.measured is not None and len(classes) == 2:
        unseen = "unseen test" if best.measured.split == "test" else "validation"
        one, other = ("top", "bottom") if set(classes) == {"top", "bottom"} else (classes[0], classes[1])
        if best.measured.low <= best.measured.chance:
            return f"Configuration {best.key} tells {one} from {other} no better than chance"
        share = percent(best.measured.accuracy)
        return f"Configuration {best.key} tells {one} from {other} in {share} of {unseen} pictures"
    labelled, collected = funnel.count(LABELLED), funnel.count(COLLECTED)
    if labelled is not None and collected is not None:
        return f"{labelled:,} labels from {collected:,} posts"
    return f"{collected:,} posts" if collected is not None else "An empty root"


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
        text = f"The 95 % interval of {best.key} is {100 * seen.low:.1f}–{100 * seen.high:.1f} %; chance is "
        text += percent(seen.chance, 0)
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
        facts.append(Fact(percent(seen.accuracy), f"accuracy of {best.key} on {seen.n:,} {seen.split} pictures"))
        if seen.ceiling is not None:
            facts.append(Fact(percent(seen.ceiling), "a perfect judge on the same pictures"))
    return facts
