"""The plain scripts do the same work as the code they are compared with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.train import plain_script
from benchmarks.train.generated import pictures
from benchmarks.train.plain_torch import PlainPass, PlainStep, Writing
from benchmarks.train.reference import model_of
from raypipe.train.loop.inputs import extract_features
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights


@pytest.mark.parametrize("letter", ["A", "B", "C", "D"])
def test_plain_network_has_as_many_parameters(letter: str) -> None:
    ours = build_vgg(CONFIGURATIONS[letter], image_size=64, weights=load_weights("random"), seed=0, init="he")
    theirs = model_of(CONFIGURATIONS[letter], 64)
    for trained in (True, False):
        n_ours, n_theirs = (
            sum(p.numel() for p in model.parameters() if p.requires_grad == trained) for model in (ours, theirs)
        )
        assert n_ours == n_theirs


@pytest.mark.parametrize(
    "writing",
    [Writing(grad="no_grad", batch=4), Writing(layout="contiguous", grad="inference_mode", batch=3)],
    ids=str,
)
def test_plain_pass_computes_same_features_as_loop(writing: Writing) -> None:
    weights, images = load_weights("random"), pictures(4, 32, 0).images
    model = build_vgg(CONFIGURATIONS["A"], image_size=32, weights=weights, seed=0, init="he")
    plain = PlainPass(writing, images)
    plain.forward.load_state_dict(model.features.state_dict())
    ours = extract_features(model, images, weights.preprocessing, device=torch.device("cpu"))
    torch.testing.assert_close(plain(), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("update", ["fused", "foreach", "single"])
def test_a_plain_step_trains_every_layer(update: str) -> None:
    training = pictures(4, 32, 0)
    step = PlainStep(Writing(update=update), training.images, training.labels, 2)
    before = {name: value.clone() for name, value in step.model.state_dict().items() if name.endswith("weight")}
    for group in step.optimizer.param_groups:
        group["lr"] = 0.1
    step()
    assert all(not torch.equal(value, step.model.state_dict()[name]) for name, value in before.items())


def test_the_script_reads_weights_as_raypipe_does(keras_weights: Path) -> None:
    theirs = plain_script.convolutions(keras_weights).state_dict()
    ours = load_weights(str(keras_weights)).convolutions
    assert ours is not None
    assert all(torch.equal(value, theirs[name.removeprefix("features.")]) for name, value in ours.items())


def test_script_prints_same_results_with_cached_features(
    insects: Path,
    keras_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def said(*more: str) -> Any:
        options = ["--size", "32", "--epochs", "2", "--batch", "4", "--workers", "0", *more]
        monkeypatch.setattr(sys, "argv", ["plain_script.py", str(insects), str(keras_weights), *options])
        plain_script.main()
        return json.loads(capsys.readouterr().out)

    whole = said()
    assert (whole["train"], whole["val"]) == (12, 8)
    features = ["--features", str(tmp_path / "features.pt")]
    for _ in range(2):
        found = said(*features)
        for ours, theirs in zip(found["epochs"], whole["epochs"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
    assert said(*features, "--seed", "1")["epochs"] != whole["epochs"]
