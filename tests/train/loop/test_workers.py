import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from raypipe.train.loop.workers import Workers


def crew(rank: int, size: int) -> Workers:
    """One of several workers without the others, for tests without communication."""
    workers = Workers()
    workers.rank, workers.size = rank, size
    return workers


@given(n=st.integers(0, 200), size=st.integers(1, 9))
def test_shares_cover_all_rows_and_are_nearly_equal(n: int, size: int) -> None:
    parts = [crew(rank, size).own_part(np.arange(n)) for rank in range(size)]
    assert np.concatenate(parts).tolist() == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_single_worker_exchanges_nothing() -> None:
    workers, rows = Workers(), torch.arange(5.0)
    workers.sum([rows])
    workers.broadcast([rows])
    assert workers.gather(rows, 5).tolist() == [0, 1, 2, 3, 4]
    assert workers.any(True, torch.device("cpu"))
    assert not workers.any(False, torch.device("cpu"))
