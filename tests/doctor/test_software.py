"""Checks of Python, packages, native modules and weights."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from raypipe.doctor import software
from raypipe.doctor.software import check_dlib, check_packages, check_python, check_torchvision, check_weights


def test_current_environment_passes() -> None:
    for check in (check_python(), check_packages(), check_torchvision(), check_dlib()):
        assert check.state == "ok", check
    assert sys.executable in check_python().detail
    assert f"torch {metadata.version('torch')}" in check_packages().detail


def test_too_old_python_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_OLDEST_PYTHON", (9, 0))
    check = check_python()
    assert (check.state, check.advice) == ("fail", "use Python 9.0 or newer")


def test_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_REQUIRED", ("ray", "no-such-package-of-raypipe"))
    check = check_packages()
    assert (check.state, check.detail) == ("fail", "missing: no-such-package-of-raypipe")


def test_unimportable_native_module_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python itself uses None in sys.modules to mark a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)
    monkeypatch.setitem(sys.modules, "dlib", None)
    for check in (check_torchvision(), check_dlib()):
        assert check.state == "fail"
        assert "ModuleNotFoundError" in check.detail
        assert "install" in check.advice


@pytest.mark.parametrize("name", ["imagenet", "imagenet-caffe", "auto"])
def test_missing_published_weights_are_not_downloaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    check = check_weights(name)
    assert check.state == "warn"
    assert str(tmp_path / "hub" / "checkpoints") in check.detail
    assert ("random" in check.detail) == (name == "auto")
    assert "--train.weights FILE" in check.advice
    url = next(word.rstrip(",") for word in check.advice.split() if word.startswith("https://"))
    cached = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(bytes(2_000_000))
    assert check_weights(name).state == "ok"
    assert check_weights(name).detail == f"{name}: {cached}, 2 MB"


def test_random_weights_pass() -> None:
    assert check_weights("random").state == "ok"


def test_weights_file_is_read(tmp_path: Path) -> None:
    missing = check_weights(str(tmp_path / "none.h5"))
    assert (missing.state, missing.detail.endswith("there is no such file")) == ("fail", True)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    broken = check_weights(str(tmp_path / "part.pth"))
    assert broken.state == "fail"
    assert "is missing: this is not a VGG-16" in broken.detail
    other = check_weights(str(tmp_path / "part.pth"), "resnet18")
    assert "layer conv1.weight is missing: this is not a resnet18" in other.detail
    nowhere = check_weights("imagenet", "resnet19")
    assert "'resnet19' is not a classifier of torchvision" in nowhere.detail
    unknown = check_weights("vgg-nineteen")
    assert unknown.state == "fail"
    assert "'vgg-nineteen' is not allowed" in unknown.detail


def test_real_convolutions_file_passes(shared_data: Path) -> None:
    check = check_weights(str(shared_data / "vgg16_notop.h5"))
    assert check.state == "ok"
    assert "convolutions, 59 MB" in check.detail
