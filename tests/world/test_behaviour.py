"""Which pictures misbehave: decided by the name only, with the requested share, each kind equally often."""

from __future__ import annotations

from collections import Counter

import pytest

from raypipe.tables.schemas import STATUSES
from raypipe.world.behaviour import BEHAVIOURS, NORMAL, ON_DEMAND, behaviour_of

NAMES = [str(96_899_118_000_000_000 + 7 * n) for n in range(20_000)]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_share_of_bad_pictures_is_as_requested(share: float) -> None:
    bad = sum(behaviour_of(name, share) != NORMAL for name in NAMES) / len(NAMES)
    assert bad == pytest.approx(share, abs=0.015 if 0 < share < 1 else 0)


def test_behaviours_are_equally_frequent() -> None:
    kinds = Counter(behaviour_of(name, 1.0) for name in NAMES)
    assert set(kinds) == set(BEHAVIOURS)
    assert max(kinds.values()) < 1.2 * min(kinds.values())


def test_larger_share_keeps_earlier_behaviours() -> None:
    for name in NAMES[:500]:
        if (few := behaviour_of(name, 0.2)) != NORMAL:
            assert behaviour_of(name, 0.7) == few


def test_expected_statuses_are_valid() -> None:
    assert set({**BEHAVIOURS, **ON_DEMAND}.values()) <= set(STATUSES)
