import pytest

from raypipe.train.configurations import CONFIGURATIONS, A, B, C, D


def test_the_four_of_the_paper_by_their_letters() -> None:
    assert list(CONFIGURATIONS) == ["A", "B", "C", "D"]
    assert [c.name for c in CONFIGURATIONS.values()] == ["A", "B", "C", "D"]


def test_each_differs_from_the_one_before_in_what_the_paper_says() -> None:
    assert (A.frozen, B.frozen, C.frozen, D.frozen) == (True, False, False, False)
    assert (A.full, B.full, C.full, D.full) == (False, False, True, True)
    assert all((c.momentum, c.dropout, c.l2) == (0, 0, 0) for c in (A, B, C))
    assert (D.momentum, D.dropout, D.l2) == (0.9, 0.5, 0.0005)


def test_the_penalty_given_to_keras_is_twice_as_much_as_torchs_decay() -> None:
    assert D.weight_decay == pytest.approx(0.001)
    assert C.weight_decay == 0
