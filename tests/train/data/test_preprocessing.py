from __future__ import annotations

import pytest

from raypipe.train.data.preprocessing import CAFFE_BGR, Preprocessing


def test_normalisation_json_round_trip_and_invalid_json_is_refused() -> None:
    assert Preprocessing.from_json(CAFFE_BGR.to_json()) == CAFFE_BGR
    with pytest.raises(ValueError, match="not a normalisation"):
        Preprocessing.from_json("{}")
