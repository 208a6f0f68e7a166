"""The cluster files pass Ray's own validator offline and do what the README says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "cluster"


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "local.yaml"])
def test_ray_accepts_the_cluster_file(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = read(name)
    prepared = prepare_config(config)
    validate_config(prepared)
    commands = [*prepared["setup_commands"], *prepared["head_setup_commands"], *prepared["worker_setup_commands"]]
    assert any("constraints.txt" in command for command in commands)
    assert not any("nightly" in command or "latest/ray" in command for command in commands)


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "local.yaml"])
def test_cluster_uses_one_python_environment(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(read(name))
    setup = [*prepared["head_setup_commands"], *prepared["worker_setup_commands"]]
    installs = [command for command in setup if "pip install" in command]
    # Ray's defaults call the system's pip, which current systems refuse.
    assert all("/env/bin/pip install" in command and "constraints.txt" in command for command in installs)
    for command in (prepared["head_start_ray_commands"][-1], prepared["worker_start_ray_commands"][-1]):
        assert command.startswith("export PATH=$HOME/env/bin:$PATH; ")


def test_the_kubernetes_file_names_the_pinned_ray() -> None:
    constraints = (FOLDER.parent / "constraints.txt").read_text().splitlines()
    version = next(line.removeprefix("ray==") for line in constraints if line.startswith("ray=="))
    assert read("kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == version


def test_ray_refuses_a_broken_file() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(ValidationError):
        validate_config({**read("aws.yaml"), "no_such_field": 1})


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_workers_start_from_zero_and_gpus_are_stated(name: str) -> None:
    types = read(name)["available_node_types"]
    assert types["cpu_spot"]["min_workers"] == types["gpu"]["min_workers"] == 0
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["cpu_spot"]["resources"]["CPU"] >= 8
    assert "spot" in str(types["cpu_spot"]["node_config"]).lower()


def test_kubernetes_job_runs_the_chain_on_workers_from_zero() -> None:
    spec = read("kuberay.yaml")["spec"]
    assert spec["entrypoint"].startswith("python -m raypipe run ")
    groups = {group["groupName"]: group for group in spec["rayClusterSpec"]["workerGroupSpecs"]}
    assert {name: group["minReplicas"] for name, group in groups.items()} == {"cpu": 0, "gpu": 0}
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
