"""Result files name the hardware and versions, but not the machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from benchmarks import results


def test_result_file_has_hardware_and_versions_but_no_paths(tmp_path: Path) -> None:
    path = results.write(tmp_path, "what", {"runs": [{"images_per_s": 1234.5678}]})
    text = path.read_text()
    found = json.loads(text)
    assert path.name.startswith("ingest_what_")
    assert f"_{found['hardware']['cores']}cores_{found['date']}" in path.name
    assert found["versions"].keys() >= {"python", "kernel", "nginx", "ray"}
    assert found["runs"] == [{"images_per_s": 1235.0}]
    assert str(Path.cwd()) not in text
    # In a container the home directory may be `/`, which occurs in any text.
    assert Path.home() == Path("/") or str(Path.home()) not in text
    assert f'"{socket.gethostname()}"' not in text


def test_median_is_shown_with_spread() -> None:
    assert results.shown([1502.2, 1455.0, 1480.4]) == "1,480 (1,455–1,502)"
    assert results.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_a_goal_is_met_or_missed() -> None:
    assert results.goal("rate", 5.0, 5.0)["met"] is True
    assert results.goal("rate", 4.9, 5.0)["met"] is False
    assert results.goal("growth", 1.0, 2.0, at_least=False)["met"] is True
    assert results.said(results.goal("rate", 4.9, 5.0)) == "rate: 4.9, wanted 5: missed"
