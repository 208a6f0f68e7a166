"""Options come from the file, then Python, then the command line. Each mistake gives one line."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.config import Config
from raypipe.config.load import TOP_LEVEL, load_config, option_names, parse_arguments
from raypipe.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def write(tmp_path: Path):
    def to_file(text: str) -> Path:
        file = tmp_path / "options.yaml"
        file.write_text(text)
        return file

    return to_file


def refused(words: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, parse_arguments(words))
    message = str(caught.value)
    assert "\n" not in message
    return message


# The command line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--seed", "3"], {"seed": "3"}),
        (["--seed=3"], {"seed": "3"}),
        (["--label.column="], {"label.column": ""}),
        (["--overwrite"], {"overwrite": "true"}),
        (["--overwrite", "--debug"], {"overwrite": "true", "debug": "true"}),
        (["--world.images", "false", "--seed", "1"], {"world.images": "false", "seed": "1"}),
        (["--world.images=false"], {"world.images": "false"}),
        (["--train.gpu"], {"train.gpu": "true"}),
        (["--world.hashtags", "-0.1"], {"world.hashtags": "-0.1"}),
        (["--label.formula", "y ~ a = b"], {"label.formula": "y ~ a = b"}),
        (["--label.formula=y ~ x==1"], {"label.formula": "y ~ x==1"}),
        (["--label.column", "none"], {"label.column": None}),
        (["--limit", "null"], {"limit": None}),
        (["--seed", "1", "--seed", "2"], {"seed": "2"}),
        (["--train.epochs", "{A: 3, B: 2}"], {"train.epochs": {"A": 3, "B": 2}}),
    ],
)
def test_arguments_are_parsed_to_options(words: list[str], expected: dict[str, Any]) -> None:
    assert parse_arguments(words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["posts.csv"], "posts.csv: is not an option; options are --section.option VALUE (see --help)"),
        (["--sweep.configs", "A", "B"], "B: is not an option; options are --section.option VALUE (see --help)"),
        (["--label.quantil", "3"], "--label.quantil: unknown option; did you mean --label.quantile?"),
        (["--labels.quantile=3"], "--labels.quantile: unknown option; did you mean --label.quantile?"),
        (["--zzzz"], "--zzzz: unknown option (see --help)"),
        (["-x"], "-x: is not an option; options are --section.option VALUE (see --help)"),
        (["--root"], "--root: needs a value; only true/false options can have none"),
        (["--limit", "--debug"], "--limit: needs a value; only true/false options can have none"),
        (["--train.epochs", "{A: 3"], "--train.epochs {A: 3: cannot be read as a mapping such as {A: 3, B: 2}"),
    ],
)
def test_wrong_arguments_raise_errors(words: list[str], message: str) -> None:
    assert refused(words) == message


@pytest.mark.parametrize(
    ("words", "starts", "allowed"),
    [
        (["--seed", "1.5"], "seed: '1.5' is not allowed: ", "valid integer"),
        (["--overwrite", "perhaps"], "overwrite: 'perhaps' is not allowed: ", "boolean"),
        (["--sweep.configs", "A,E"], "sweep.configs.1: 'E' is not allowed: ", "'A', 'B', 'C' or 'D'"),
        (["--train.epochs", "{A: 3, E: 2}"], "train.epochs.E: 'E' is not allowed: ", "'A', 'B', 'C' or 'D'"),
        (["--train.epochs", "{A: x}"], "train.epochs.A: 'x' is not allowed: ", "valid integer"),
        (["--train.epochs", "some"], "train.epochs: 'some' is not allowed: ", "valid integer"),
        (["--label.quantile", "none"], "label.quantile: 'none' is not allowed: ", "valid number"),
    ],
)
def test_wrong_value_error_lists_allowed_values(words: list[str], starts: str, allowed: str) -> None:
    message = refused(words)
    assert message.startswith(starts)
    assert allowed in message


@given(words=st.lists(st.text(max_size=12) | st.sampled_from([f"--{name}" for name in option_names()]), max_size=4))
def test_any_arguments_give_options_or_config_error(words: list[str]) -> None:
    options: dict[str, Any] = {}
    with contextlib.suppress(ConfigError):
        options = parse_arguments(words)
    assert set(options) <= set(option_names())


def test_undotted_options_are_known() -> None:
    plain = [name for name in option_names() if "." not in name]
    assert plain == list(TOP_LEVEL) == ["config", "root", "seed", "posts", "limit", "overwrite", "debug"]
    assert len(set(option_names())) == len(option_names())


# The file


def test_precedence_is_command_line_then_python_then_file(write) -> None:
    file = write("seed: 1\nlabel: {quantile: 0.1, val: 0.1, test: 0.1}\n")
    config = load_config(file, {"label.test": "0.3"}, label={"val": 0.2, "test": 0.2})
    assert (config.seed, config.label.quantile, config.label.val, config.label.test) == (1, 0.1, 0.2, 0.3)


def test_an_empty_file_and_empty_sections_are_defaults(write) -> None:
    assert load_config(write("")) == Config()
    assert load_config(write("# nothing\nlabel:\ntrain: {}\n")) == Config()
    assert load_config(write("label:\n"), {"label.quantile": "0.2"}).label.quantile == 0.2


def test_file_accepts_dotted_option_names(write) -> None:
    config = load_config(write("label.quantile: 0.2\nlabel:\n  val: 0.1\nlabel.scheme: column\nseed: 4\n"))
    assert (config.label.quantile, config.label.val, config.label.scheme, config.seed) == (0.2, 0.1, "column", 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("labels: {quantile: 0.2}", "labels: unknown option (in FILE); did you mean label?"),
        ("label: {quantil: 0.2}", "label.quantil: unknown option (in FILE); did you mean label.quantile?"),
        ("label.quantil: 0.2", "label.quantil: unknown option (in FILE); did you mean label.quantile?"),
        ("label: 3", "label: 3 is not allowed (in FILE): label is a section of options"),
        ("label: [1]", "label: [1] is not allowed (in FILE): label is a section of options"),
        ("7: 8", "7: unknown option (in FILE)"),
        ("[a, b]", "--config FILE: must contain sections of options, but contains a list"),
        ("text", "--config FILE: must contain sections of options, but contains a str"),
        ("a: [1\nb: 2", "--config FILE: is not valid YAML at line 2: "),
    ],
)
def test_wrong_file_raises_error(write, text: str, message: str) -> None:
    file = write(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(message.replace("FILE", str(file)))
    assert "\n" not in str(caught.value)


def test_wrong_value_error_names_file_if_from_file(write) -> None:
    file = write("label: {quantile: 2}")
    with pytest.raises(ConfigError, match=rf"^label\.quantile: 2 is not allowed \(in {file}\): "):
        load_config(file)
    with pytest.raises(ConfigError, match=r"^label\.quantile: '3' is not allowed: "):
        load_config(file, {"label.quantile": "3"})


def test_unreadable_file_raises_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*none\.yaml: cannot be read: No such file or directory"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"binary\.yaml: cannot be read: "):
        load_config(tmp_path / "binary.yaml")


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_the_published_configurations_load(file: Path) -> None:
    config = load_config(file)
    assert config.sweep.configs == ["A", "B", "C", "D"]


def test_paper_yaml_is_default_plus_weights() -> None:
    paper = load_config(CONFIGS / "paper.yaml")
    same = paper.model_copy(update={"train": paper.train.model_copy(update={"weights": Config().train.weights})})
    assert same == Config()
    assert paper.train.weights == "imagenet"


def test_none_clears_optional_values_only() -> None:
    found = load_config(overrides=parse_arguments(["--limit", "none", "--train.save", "none", "--train.patience=null"]))
    assert (found.limit, found.train.save, found.train.patience) == (None, "none", None)
