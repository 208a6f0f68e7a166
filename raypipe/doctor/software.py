"""Checks of Python, the packages that results depend on, native parts that a wrong build breaks, and the weights."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from raypipe.doctor.check_result import CheckResult, run_check
from raypipe.tables.record import versions

_OLDEST_PYTHON = (3, 11)
_REQUIRED = ("ray", "torch", "torchvision", "dlib-bin", "pyarrow", "statsmodels", "formulaic", "aiohttp", "tensorboard")
_REINSTALL = "install again: pip install -c constraints.txt ."


def check_python() -> CheckResult:
    """Python's version."""
    seen = f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}"
    if sys.version_info[:2] < _OLDEST_PYTHON:
        return CheckResult("python", "fail", seen, f"use Python {'.'.join(map(str, _OLDEST_PYTHON))} or newer")
    return CheckResult("python", "ok", seen)


def check_packages() -> CheckResult:
    """Versions of the packages that results depend on."""
    missing = []
    for name in _REQUIRED:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return CheckResult("packages", "fail", f"missing: {', '.join(missing)}", _REINSTALL)
    return CheckResult("packages", "ok", ", ".join(f"{name} {v}" for name, v in versions().items() if name != "python"))


def check_torchvision() -> CheckResult:
    """torchvision's native operators. They are missing if torch is a CPU build and torchvision a CUDA build."""

    def run_probe() -> str:
        import torch
        from torchvision.ops import nms

        boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
        kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
        if kept != [0, 2]:
            raise ValueError(f"torchvision.ops.nms kept {kept} of three boxes, not [0, 2]")
        return "torchvision.ops.nms works"

    return run_check(
        "torchvision", run_probe, "install torch and torchvision together, from the same index, as wheels of one build"
    )


def check_dlib() -> CheckResult:
    """dlib's frontal face detector."""

    def run_probe() -> str:
        import dlib

        detector = dlib.get_frontal_face_detector()
        found = len(detector(np.zeros((96, 96), dtype=np.uint8), 0))
        if found:
            raise ValueError(f"{found} faces found in a black picture")
        return f"dlib {dlib.__version__}: its face detector runs"

    return run_check("dlib", run_probe, _REINSTALL)


def check_weights(name: str, model: str = "vgg16") -> CheckResult:
    """Where the weights of `train.weights` for `train.model` are. A file is read completely. Nothing is downloaded."""
    from torchvision.models import VGG16_Weights, get_model_weights, list_models

    if name == "random":
        return CheckResult("weights", "ok", "random: nothing is pretrained")
    if name in ("imagenet", "auto") and model.startswith("timm/"):
        return CheckResult("weights", "ok", f"{name} of {model}: timm downloads and keeps them; not checked")
    if name in ("imagenet", "auto") and model in list_models():
        return _check_cached(name, get_model_weights(model).DEFAULT)
    if (name, model) == ("imagenet-caffe", "vgg16"):
        return _check_cached(name, VGG16_Weights.IMAGENET1K_FEATURES)
    return _check_file(name, model)


def _check_cached(name: str, weights: Any) -> CheckResult:
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url).path).name
    if cached.is_file():
        return CheckResult("weights", "ok", f"{name}: {cached}, {cached.stat().st_size / 1e6:,.0f} MB")
    otherwise = "; auto trains from random weights if that fails" if name == "auto" else ""
    return CheckResult(
        "weights",
        "warn",
        f"{name}: not in {cached.parent}; the first use downloads {weights.meta['_file_size']:,.0f} MB{otherwise}",
        f"allow access to {weights.url}, put the file there, or use --train.weights FILE",
    )


def _check_file(name: str, model: str) -> CheckResult:
    def run_probe() -> str:
        from raypipe.train.networks.build import load_network_weights

        found = load_network_weights(model, name)
        layers = (
            "all but the last layer" if found.body else "convolutions and FC layers" if found.fc else "convolutions"
        )
        return f"{name}: {layers}, {Path(name).expanduser().stat().st_size / 1e6:,.0f} MB"

    return run_check(
        "weights", run_probe, f"use --train.weights imagenet, imagenet-caffe, random, auto, or a file of {model}"
    )
