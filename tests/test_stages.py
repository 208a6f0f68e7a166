"""The table of commands, and the same commands as Python functions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import raypipe
from raypipe.config import Config
from raypipe.config.base import Section
from raypipe.stages import COMMON_SECTIONS, STAGES

PACKAGES = [name for name, stage in STAGES.items() if stage.target.startswith(f"raypipe.{name}.")]


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_reads_sections_that_exist(name: str) -> None:
    for section in (*STAGES[name].sections, *COMMON_SECTIONS):
        kind = Config.model_fields[section].annotation
        assert isinstance(kind, type)
        assert issubclass(kind, Section)


@pytest.mark.parametrize("name", STAGES)
def test_each_stage_is_a_function_of_the_package(name: str) -> None:
    function = STAGES[name].load()
    assert callable(function)
    assert callable(getattr(raypipe, name))
    assert callable(getattr(raypipe, name)), "not the second time"
    assert name in raypipe.__all__


@pytest.mark.parametrize("name", STAGES)
def test_each_command_has_a_help_line(name: str) -> None:
    help_line = STAGES[name].help
    assert 10 < len(help_line) < 80
    assert not help_line.endswith(".")


def test_commands_match_documentation() -> None:
    documented = [
        "demo",
        "world",
        "collect",
        "ingest",
        "label",
        "judge",
        "train",
        "sweep",
        "predict",
        "report",
        "study",
        "export",
        "run",
        "doctor",
    ]
    assert set(STAGES) == {*documented, "board"}


@pytest.mark.parametrize("name", PACKAGES)
def test_stage_package_is_callable(name: str, monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    module = importlib.import_module(STAGES[name].target.partition(":")[0])
    called: list[Config] = []
    monkeypatch.setattr(module, STAGES[name].target.partition(":")[2], called.append)
    getattr(raypipe, name)(config)
    assert called == [config]


def test_unknown_stage_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'raypipe' has no attribute 'lable'"):
        _ = raypipe.lable


def test_the_numeric_core_imports_no_ray() -> None:
    may = {"pipeline.py", "sweep.py", "decode.py", "session.py"}
    found = [
        str(file)
        for file in Path(raypipe.__file__).parent.rglob("*.py")
        if file.name not in may and not file.name.startswith("ray_")
        for line in file.read_text().splitlines()
        if line.strip().startswith(("import ray", "from ray ", "from ray."))
        and not line.strip().startswith("import raypipe")
    ]
    assert found == []


def test_importing_the_package_is_light() -> None:
    program = "import sys, raypipe; print([m for m in ('ray', 'torch', 'pandas', 'dlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
