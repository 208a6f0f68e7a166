"""The command line: exit codes, one line per mistake, and help that lists every option."""

from __future__ import annotations

import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.cli import main
from raypipe.config import Config
from raypipe.config.load import TOP_LEVEL, option_names
from raypipe.errors import InputError, StageError, printable
from raypipe.stages import COMMON_SECTIONS, STAGES, Stage
from tests.commands import start
from tests.hostile import TEXTS


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# Stages for these tests, called through the same table as the real ones.


def ends_well(config: Config) -> None:
    Path(config.root).mkdir(parents=True)


def fails_on_its_input(config: Config) -> None:
    raise InputError(f"{config.root}/posts: no good row:\n  all have negative likes")


def fails_by_mistake(config: Config) -> None:
    del config
    {}["absent"]


def fails_without_words(config: Config) -> None:
    del config
    raise AssertionError


def fails_inside_ray(config: Config) -> None:
    import ray

    del config

    def work() -> None:
        raise StageError("s3://bucket/run/images: cannot write: access denied")

    ray.get(ray.remote(work).remote())


def is_interrupted(config: Config) -> None:
    del config
    raise KeyboardInterrupt


def waits(config: Config) -> None:
    """Run until a signal ends it, and write that it cleaned up."""
    try:
        Path(config.root).write_text("started")
        time.sleep(60)
    finally:
        Path(config.root).write_text("cleaned up")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch):
    def add(function: str) -> str:
        monkeypatch.setitem(STAGES, "probe", Stage(f"{__name__}:{function}", "of the tests", ("label",)))
        return "probe"

    return add


# Exit codes


def test_successful_stage_exits_0(stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage("ends_well"), "--root", str(tmp_path / "made")]) == 0
    assert (tmp_path / "made").is_dir()
    assert capsys.readouterr() == ("", "")


def test_input_error_gives_one_line_and_exit_1(stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage("fails_on_its_input"), "--root", "there"]) == 1
    assert capsys.readouterr().err == "raypipe probe: there/posts: no good row: all have negative likes\n"


@pytest.mark.parametrize(
    ("function", "what"), [("fails_by_mistake", "KeyError: 'absent'"), ("fails_without_words", "AssertionError: ")]
)
@pytest.mark.parametrize("words", [[], ["--debug", "false"], ["--debug=false"]])
def test_unexpected_error_gives_one_line_and_exit_1(
    stage, function: str, what: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([stage(function), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"raypipe probe: unexpected {what}")
    assert error.endswith("; --debug shows the traceback\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize("words", [["--debug"], ["--debug", "true"], ["--debug=true"], ["--config", "FILE"]])
def test_debug_shows_the_traceback(stage, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "debug.yaml").write_text("debug: true")
    words = [word.replace("FILE", str(tmp_path / "debug.yaml")) for word in words]
    assert main([stage("fails_by_mistake"), *words]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert "fails_by_mistake" in error
    assert error.splitlines()[-1].startswith("raypipe probe: unexpected KeyError")


@pytest.mark.usefixtures("ray_session")
def test_ray_worker_error_is_shown_in_one_line(stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage("fails_inside_ray")]) == 1
    assert capsys.readouterr().err == "raypipe probe: s3://bucket/run/images: cannot write: access denied\n"


def test_interruption_exits_130(stage, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([stage("is_interrupted")]) == 130
    assert capsys.readouterr().err == "raypipe probe: interrupted; run the same command again to continue\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_let_the_stage_clean_up(tmp_path: Path, number: signal.Signals) -> None:
    program = (
        "import sys; from raypipe.stages import STAGES, Stage; from raypipe.cli import main\n"
        "STAGES['probe'] = Stage('tests.test_cli:waits', '', ())\n"
        "sys.exit(main(['probe', '--root', sys.argv[1]]))"
    )
    note = tmp_path / "note"
    command = [sys.executable, "-c", program, str(note)]
    process = start(command, cwd=Path(__file__).parents[1], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not note.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, note.read_text()) == (130, "cleaned up")
    assert error == "raypipe probe: interrupted; run the same command again to continue\n"


# Wrong arguments: exit code 2, naming key, value and what is allowed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["label", "--label.quantile", "0.7"], "label.quantile: '0.7' is not allowed: input should be less than"),
        (["label", "--label.scheme=decile"], "label.scheme: 'decile' is not allowed: input should be 'residual', "),
        (["label", "--label.quantil", "0.1"], "--label.quantil: unknown option; did you mean --label.quantile?"),
        (["world", "--world.images=perhaps"], "world.images: 'perhaps' is not allowed: input should be a valid bool"),
        (["sweep", "--sweep.configs", "A,X"], "sweep.configs.1: 'X' is not allowed: input should be 'A', 'B', 'C'"),
        (["ingest", "--ingest.allow_ports", "x"], "ingest.allow_ports.0: 'x' is not allowed: input should be a valid"),
        (["ingest", "--posts"], "--posts: needs a value"),
        (["label", "--seed", "x"], "seed: 'x' is not allowed: input should be a valid integer"),
        (["label", "posts.csv"], "posts.csv: is not an option"),
        (["run", "--config", "nowhere.yaml"], "--config nowhere.yaml: cannot be read: No such file"),
        (["lable"], "unknown command; commands are demo, world, collect, ingest"),
    ],
)
def test_wrong_option_gives_one_line_and_exit_2(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"raypipe {words[0]}: {message}")
    assert output.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_wrong_configuration_file_exits_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("label:\n  quantile: 9\n")
    assert main(["label", "--config", str(tmp_path / "c.yaml")]) == 2
    assert f"label.quantile: 9 is not allowed (in {tmp_path}/c.yaml): " in capsys.readouterr().err


# Help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_each_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "[--config FILE.yaml] [--root DIR-or-URI] [--section.option value …]" in out
    for name, stage in STAGES.items():
        assert re.search(rf"^\s+{name}\s+{re.escape(stage.help)}\s*$", out, re.M)


@pytest.mark.parametrize("name", STAGES)
def test_help_lists_each_option_with_default_and_description(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {word.group(1): line for line in lines if (word := re.match(r"  --(\S+)  ?.*", line))}
    sections = (*STAGES[name].sections, *COMMON_SECTIONS)
    expected = {o for o in option_names() if o in TOP_LEVEL or o.split(".")[0] in sections}
    assert set(listed) == expected
    assert all(re.search(r"\[.*\]$", line) for option, line in listed.items() if option != "config")
    assert not [line for line in lines if "None" in line or "PydanticUndefined" in line]


def test_help_shows_choices_limits_and_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    main(["label", "--help"])
    out = capsys.readouterr().out
    assert "(residual|karpathy|quantiles|continuous|column|hashtags) [residual]" in out
    assert "Lists are a,b or [a,b]. An option without a value means true" in out
    assert re.search(r"--label\.column .*\[none\]", out)
    assert re.search(r"--label\.hashtags .*\[\]", out)
    main(["label", "--label.quantile", "9", "-h"])
    assert capsys.readouterr().out == out


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"raypipe {importlib.metadata.version('raypipe')}\n"


@pytest.mark.parametrize("program", [["-m", "raypipe"], ["-m", "raypipe.cli"]])
def test_help_does_not_import_ray_or_torch(program: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", *program, "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "40"})
    assert done.returncode == 0
    assert "--train.learning_rate" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not {"ray", "torch", "pandas"} & imported


@pytest.mark.parametrize("text", TEXTS)
def test_error_line_contains_no_terminal_controls(
    stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    name = stage("fails_on_its_input")

    def fails(config: Config) -> None:
        del config
        raise InputError(f"posts: column {text} is not there", extra_lines=text)

    monkeypatch.setattr(sys.modules[__name__], "fails_on_its_input", fails)
    assert main([name]) == 1
    line = " ".join(f"posts: column {text} is not there".split())
    said = f"raypipe {name}: {line}\n" + (f"{text}\n" if text else "")
    assert capsys.readouterr().err == printable(said)
