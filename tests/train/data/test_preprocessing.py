from __future__ import annotations

import pytest

from raypipe.train.data.preprocessing import CAFFE_BGR, Preprocessing


def test_a_normalisation_survives_json_and_anything_else_is_refused() -> None:
    assert Preprocessing.from_json(CAFFE_BGR.to_json()) == CAFFE_BGR
    with pytest.raises(ValueError, match="not a normalisation"):
        Preprocessing.from_json("{}")
