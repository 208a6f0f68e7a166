"""Features of frozen convolutions are computed once for all seeds, and reused only if nothing has changed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raypipe.storage import Storage
from raypipe.train.data.images import prepare_batch
from raypipe.train.data.preprocessing import CAFFE_RGB, TORCHVISION
from raypipe.train.loop.choices import Choice
from raypipe.train.loop.feature_cache import FEATURES_FOLDER, FeatureCache
from raypipe.train.loop.fit import fit
from raypipe.train.loop.state import EpochResult, LoopOptions
from raypipe.train.loop.workers import Workers
from raypipe.train.metrics import forward_flops
from raypipe.train.networks.configurations import A
from raypipe.train.networks.vgg import VGG, build_vgg
from raypipe.train.networks.weights import load_weights
from tests.train.small import draw

CPU = torch.device("cpu")
TRAIN, VAL = draw(18, 0, size=32), draw(7, 1, size=32)
OPTIONS = LoopOptions(epochs=2, learning_rate=0.01, seed=3)


def network(seed: int = 0) -> VGG:
    return build_vgg(A, image_size=32, weights=load_weights("random"), seed=seed)


def train(cache: FeatureCache | None, **options: Any) -> tuple[list[EpochResult], dict[str, str]]:
    said: list[Choice] = []
    results = fit(
        network(),
        A,
        TRAIN,
        VAL,
        replace(OPTIONS, **options),
        preprocessing=TORCHVISION,
        cache=cache,
        on_choice=said.append,
    )
    return results, {choice.what: choice.value for choice in said if choice.what.startswith("features")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_second_training_uses_cache_with_same_results(tmp_path: Path, dtype: str) -> None:
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1")
    plain, _ = train(None, dtype=dtype)
    first, computed = train(cache, dtype=dtype)
    second, found = train(cache, dtype=dtype)
    parts = {"features of train", "features of train-mirrored", "features of val"}
    assert set(computed) == set(found) == parts
    assert set(found.values()) == {"found on disk; mapped from files, read ahead"}
    assert set(computed.values()) == {"computed and kept; in main memory"}
    for results in (first, second):
        assert [row.train_loss for row in results] == [row.train_loss for row in plain]
        for mine, other in zip(results, plain, strict=True):
            np.testing.assert_array_equal(mine.val_probabilities, other.val_probabilities)
    assert sum(file.stat().st_size for file in (tmp_path / "tensors" / FEATURES_FOLDER).rglob("*.npy")) > 43 * 512 * (
        2 if dtype == "bfloat16" else 4
    )


def test_feature_passes_report_as_one_in_first_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raypipe.train.loop.trainer.peak_flops", lambda *_: 1e9)
    seen: list[tuple[int, int]] = []
    model = network()
    first, second = fit(
        model, A, TRAIN, VAL, OPTIONS, preprocessing=TORCHVISION, on_batch=lambda *told: seen.append(told)
    )
    passes = [done for done, total in seen if total == 18 + 18 + 7]
    assert passes == sorted(passes)
    assert passes[-1] == 43
    assert seen[-1] == (25, 25)
    pictures = prepare_batch(VAL.images[:], TORCHVISION)
    extract, layer = forward_flops(model.extract, pictures), 4 * 512
    assert first.mfu == pytest.approx((43 * extract + 18 * layer) / (18 / first.images_per_s) / 1e9)
    assert second.mfu == pytest.approx(layer * second.images_per_s / 1e9)


def test_other_seed_reuses_cached_features(tmp_path: Path) -> None:
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1")
    train(cache)
    said: list[Choice] = []
    model = network()
    model.features.forward = None  # type: ignore[assignment]
    fit(
        model,
        A,
        TRAIN,
        VAL,
        replace(OPTIONS, seed=4),
        preprocessing=TORCHVISION,
        cache=cache,
        on_choice=said.append,
    )
    found = [choice.value for choice in said if choice.what.startswith("features of")]
    assert found == ["found on disk; mapped from files, read ahead"] * 3


def test_cache_key_includes_all_feature_inputs() -> None:
    storage, model = Storage("/nowhere"), network()
    cache = FeatureCache(storage, "tensors", "pictures 1")
    key = cache.key(model, TORCHVISION, CPU, "float32")
    assert key == cache.key(network(), TORCHVISION, CPU, "float32")
    others = {
        cache.key(network(seed=1), TORCHVISION, CPU, "float32"),
        cache.key(model, CAFFE_RGB, CPU, "float32"),
        cache.key(model, TORCHVISION, CPU, "bfloat16"),
        cache.key(model, TORCHVISION, torch.device("cuda"), "float32"),
        FeatureCache(storage, "tensors", "pictures 2").key(model, TORCHVISION, CPU, "float32"),
    }
    assert len({key, *others}) == 6
    # The last layer is not frozen, so it is not in the key.
    torch.nn.init.ones_(model.logit.weight)
    assert key == cache.key(model, TORCHVISION, CPU, "float32")


def test_features_without_their_list_are_recomputed(tmp_path: Path) -> None:
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1")
    train(cache)
    for listed in (tmp_path / "tensors" / FEATURES_FOLDER).rglob("_files.json"):
        listed.unlink()
    _, again = train(cache)
    assert set(again.values()) == {"computed and kept; in main memory"}


def test_training_continues_if_cache_is_unwritable(tmp_path: Path) -> None:
    (tmp_path / "tensors").write_text("in the way")
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1")
    found, origin, _ = cache.get(
        "x", (2, 3), "float32", workers=Workers(), device=CPU, compute=lambda: torch.ones(2, 3)
    )
    assert torch.equal(found[:], torch.ones(2, 3))
    assert origin.startswith("computed, not kept: ")


class OneAtATime:
    """A ComputeLock for threads."""

    def __init__(self) -> None:
        self.lock, self.holders = threading.Lock(), dict[str, int]()

    def acquire(self, name: str) -> bool:
        with self.lock:
            return self.holders.setdefault(name, threading.get_ident()) == threading.get_ident()

    def release(self, name: str) -> None:
        with self.lock:
            del self.holders[name]


def test_parallel_trainings_compute_features_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypipe.train.loop.feature_cache._POLL_SECONDS", 0.01)
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1", OneAtATime())
    began, computed = threading.Barrier(3), list[int]()

    def compute() -> Tensor:
        # Long enough for the other threads to ask.
        time.sleep(0.2)
        computed.append(threading.get_ident())
        return torch.arange(6.0).view(2, 3)

    def train_one(_: int) -> tuple[Tensor, str, float]:
        began.wait()
        found, origin, waited = cache.get("x", (2, 3), "float32", workers=Workers(), device=CPU, compute=compute)
        return found[:], origin, waited

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(train_one, range(3)))
    assert len(computed) == 1
    assert sorted(origin for _, origin, _ in found) == ["computed and kept", "found on disk", "found on disk"]
    assert all(waited > 0.1 for _, origin, waited in found if origin == "found on disk")
    assert all(torch.equal(rows, torch.arange(6.0).view(2, 3)) for rows, _, _ in found)


def test_failed_training_releases_its_turn(tmp_path: Path) -> None:
    compute_lock = OneAtATime()
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1", compute_lock)

    def fail() -> Tensor:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        cache.get("x", (2, 3), "float32", workers=Workers(), device=CPU, compute=fail)
    assert compute_lock.holders == {}


def test_large_features_are_split_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raypipe.train.loop.feature_cache._FILE_BYTES", 4 * 3 * 4)
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1")
    features = torch.arange(30.0).view(10, 3)
    shape = (10, 3)
    cache.get("x", shape, "float32", workers=Workers(), device=CPU, compute=lambda: features)
    found, origin, _ = cache.get("x", shape, "float32", workers=Workers(), device=CPU, compute=lambda: features * 0)
    assert origin == "found on disk"
    assert torch.equal(found[:], features)
    assert len(list((tmp_path / "tensors" / FEATURES_FOLDER / "x").glob("*.npy"))) == 3


def test_features_are_recomputed_without_room_for_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(Storage(str(tmp_path)), "tensors", "pictures 1")
    train(cache)
    # There is no room before the copy, or another process takes it meanwhile.
    for name, answer in (("fits_on_machine", False), ("map_if_room", None)):
        with monkeypatch.context() as patch:
            patch.setattr(f"raypipe.train.loop.feature_cache.{name}", lambda _, answer=answer: answer)
            _, again = train(cache)
            assert set(again.values()) == {"computed and kept; in main memory"}
