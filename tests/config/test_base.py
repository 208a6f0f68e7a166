"""Rules for names that become folders, checked for every such option."""

from __future__ import annotations

import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.cli import main
from raypipe.config.base import check_name
from raypipe.config.load import load_config
from raypipe.errors import ConfigError
from tests.hostile import NAMES
from tests.test_cli import signals_as_before

__all__ = ["signals_as_before"]

OPTIONS = {"train": "name", "predict": "name", "export": "name", "study": "participant"}
"""Options that become a folder, by stage."""
RULE = "a name has 1 to 64 characters of A-Z a-z 0-9 . _ - and begins with a letter or a digit"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root with a file in it and a file next to it. Both must be unchanged after the test."""
    (tmp_path / "root" / "posts").mkdir(parents=True)
    (tmp_path / "root" / "posts" / "part.parquet").write_bytes(b"mine")
    (tmp_path / "beside").write_bytes(b"mine")
    before = _everything(tmp_path)
    yield tmp_path / "root"
    assert _everything(tmp_path) == before


def _everything(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@given(st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64))
def test_name_is_unchanged_unless_first_character_is_refused(name: str) -> None:
    if name[0] in "._-":
        with pytest.raises(ValueError, match="begins with"):
            check_name(name)
    else:
        assert check_name(name) == name


@pytest.mark.parametrize("stage", OPTIONS)
@pytest.mark.parametrize("name", NAMES)
def test_every_name_option_refuses_invalid_names(stage: str, name: str) -> None:
    option = OPTIONS[stage]
    if (stage, name) == ("study", ""):
        assert load_config(study={option: ""}).study.participant == ""
        return
    with pytest.raises(ConfigError) as caught:
        load_config(**{stage: {option: name}})
    assert str(caught.value) == f"{stage}.{option}: {name!r} is not allowed: {RULE}"


@pytest.mark.parametrize("stage", OPTIONS)
@pytest.mark.parametrize("name", ["a", "A.b_c-d", "0", "x" * 64, "a..b", "x.", "con"])
def test_every_name_option_accepts_valid_names(stage: str, name: str) -> None:
    assert getattr(getattr(load_config(**{stage: {OPTIONS[stage]: name}}), stage), OPTIONS[stage]) == name


@pytest.mark.parametrize("stage", OPTIONS)
@pytest.mark.parametrize("name", ["..", "a/b", "../beside"])
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_refused_name_gives_one_line_and_changes_nothing(
    root: Path, stage: str, name: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    option = f"{stage}.{OPTIONS[stage]}"
    assert main([stage, "--root", str(root), f"--{option}", name, *more]) == 2
    assert capsys.readouterr().err == f"raypipe {stage}: {option}: {name!r} is not allowed: {RULE}\n"


@pytest.mark.parametrize("stage", ["predict", "export"])
@pytest.mark.parametrize("model", ["sweep/..", "train/..", "train/../posts", "train/A/..", "sweep//x", "train//", ".."])
def test_model_option_cannot_leave_its_table(
    root: Path, stage: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "x.jpg").write_bytes(b"")
    words = {"predict": ["--predict.inputs", str(root / "x.jpg")], "export": ["--format", "model"]}[stage]
    assert main([stage, "--root", str(root), f"--{stage}.model", model, *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"raypipe {stage}: {stage}.model: {model!r} is not allowed: a .safetensors file, train/NAME")
    assert said.count("\n") == 1
    (root / "x.jpg").unlink()


PATHS = {"root": None, "posts": None, "storage": "scratch", "train": "weights"}
"""Options in which ~ is the home directory, by section."""


def load_path(section: str, value: str) -> str:
    """The option's value after it was set to `value`."""
    option = PATHS[section]
    config = load_config(**{section: value if option is None else {option: value}})
    found = getattr(config, section)
    return str(found if option is None else getattr(found, option))


def refusal(section: str, value: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_path(section, value)
    name = section if PATHS[section] is None else f"{section}.{PATHS[section]}"
    start = f"{name}: {value!r} is not allowed: "
    assert str(caught.value).startswith(start)
    return str(caught.value).removeprefix(start)


@pytest.mark.parametrize("section", PATHS)
def test_impossible_paths_are_refused(section: str) -> None:
    nobody = "~nobody-of-this-name/x"
    assert refusal(section, nobody) == "there is no home directory ~nobody-of-this-name"
    assert refusal(section, "a\0b") == "a path cannot contain a NUL character"
    for path in ("~", "~/x", "a b", "../x", "é", "x" * 300):
        assert load_path(section, path) == path


@pytest.mark.parametrize("value", ["s3://b/x", "file:///x", "gs://b"])
def test_scratch_must_not_be_a_uri(value: str) -> None:
    assert refusal("storage", value) == "it must be a directory on each machine, not a URI"
    assert load_path("root", value) == value


def test_scratch_must_not_be_empty() -> None:
    assert refusal("storage", "") == "it must name a directory"


def test_docs_contain_rule_for_names() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for page in ("security.md", "tables.md"):
        text = " ".join((docs / page).read_text().split())
        assert "1 to 64 characters of `A-Z a-z 0-9 . _ -`, and begins with a letter or a digit" in text, page
