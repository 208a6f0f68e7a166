"""The options: types, limits, the defaults of the paper, and which options change a result."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raypipe.config import Config
from raypipe.config.base import Section
from raypipe.config.learning_options import LabelOptions
from raypipe.config.load import load_config
from raypipe.errors import ConfigError

SECTIONS: dict[str, type[Section]] = {
    name: info.annotation
    for name, info in Config.model_fields.items()
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section)
}
OPTIONS: dict[str, FieldInfo] = {
    f"{section}.{name}": info for section, kind in SECTIONS.items() for name, info in kind.model_fields.items()
} | {name: info for name, info in Config.model_fields.items() if name not in SECTIONS}


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_has_description_and_result_mark(name: str) -> None:
    info = OPTIONS[name]
    assert info.description
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    assert isinstance(extra["result"], bool)


@pytest.mark.parametrize("name", SECTIONS)
def test_each_section_has_a_docstring(name: str) -> None:
    assert SECTIONS[name].__doc__


def test_defaults_are_those_of_paper() -> None:
    config = Config()
    assert config.label.formula == "log10(1 + likes) ~ log10(1 + followers) + n_hashtags"
    assert (config.label.quantile, config.label.val, config.label.test) == (0.1, 0.25, 0.0)
    assert (config.label.scheme, config.label.eligible, config.label.split) == ("residual", "one_face", "random")
    assert (config.train.batch_size, config.train.learning_rate, config.train.image_size) == (32, None, 224)
    assert config.train.epochs == {"A": 12, "B": 9, "C": 8, "D": 20}
    assert config.sweep.configs == ["A", "B", "C", "D"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("8471", [8471]),
        ("8471,9000", [8471, 9000]),
        ("[8471, 9000]", [8471, 9000]),
        ([8471], [8471]),
        (8471, [8471]),
        ("", []),
        ("[]", []),
    ],
)
def test_number_lists_are_parsed(given: Any, expected: list[int]) -> None:
    assert load_config(ingest={"allow_ports": given}).ingest.allow_ports == expected


@pytest.mark.parametrize("given", ["selfie,me", "[selfie, me]", ["selfie", "me"], " selfie , me ,"])
def test_text_lists_are_parsed(given: Any) -> None:
    assert load_config(label={"hashtags": given}).label.hashtags == ["selfie", "me"]


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("label.quantile", 0.51, "less than or equal to 0.5"),
        ("label.quantile", 0, "greater than 0"),
        ("label.quantile", "many", "valid number"),
        ("label.val", -0.1, "greater than or equal to 0"),
        ("label.scheme", "deciles", "'residual', 'karpathy', 'quantiles', 'continuous', 'column' or 'hashtags'"),
        ("label.eligible", "faces", "'one_face', 'with_face', 'image' or 'post'"),
        ("train.config", "E", "'A', 'B', 'C' or 'D'"),
        ("train.epochs", 0, "epochs must be 1 or more"),
        ("train.epochs", {"A": 0}, "epochs must be 1 or more"),
        ("train.learning_rate", 0, "a learning rate must be above 0"),
        ("train.learning_rate", {"B": -1}, "a learning rate must be above 0"),
        ("train.image_size", 31, "greater than or equal to 32"),
        ("train.batch_size", 1.5, "valid integer"),
        ("sweep.configs", [], "at least 1 item"),
        ("ingest.allow_ports", True, "valid list"),
        ("ingest.deadline", float("inf"), "finite"),
        ("world.intercept", float("nan"), "finite"),
        ("world.port", 70_000, "less than or equal to 65535"),
        ("world.images", "perhaps", "valid boolean"),
        ("ray.num_cpus", 0, "greater than or equal to 1"),
        ("seed", -1, "greater than or equal to 0"),
        ("limit", 0, "greater than or equal to 1"),
    ],
)
def test_invalid_value_raises_config_error(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, {name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: {value!r} is not allowed: ")
    assert allowed in message
    assert "\n" not in message


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        LabelOptions(quantil=0.1)  # type: ignore[call-arg]


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Config().label.quantile = 0.2  # type: ignore[misc]


def test_result_options_exclude_speed_options() -> None:
    config = load_config(root="elsewhere", overwrite=True, seed=7, ingest={"fetchers": 5, "max_bytes": 9})
    found = config.result_options("seed", "ingest", "label")
    assert found["seed"] == 7
    assert found["ingest"]["max_bytes"] == 9
    assert found["label"] == config.label.model_dump(exclude={"on_ray"})
    assert not {"fetchers", "fan_out", "per_host", "per_host_rate", "contact"} & set(found["ingest"])
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    "change",
    [
        {"root": "b"},
        {"overwrite": True},
        {"debug": True},
        {"ray": {"num_cpus": 7, "dashboard": False}},
        {"storage": {"endpoint": "http://127.0.0.1:1"}},
        {"train": {"workers": 4, "gpu": False, "save": "none"}},
        {"board": {"port": 0}},
        {"world": {"serve": True}},
    ],
)
def test_place_and_speed_do_not_change_result_options(change: dict[str, Any]) -> None:
    names = [name for name in Config.model_fields if OPTIONS.get(name) is None or _result(OPTIONS[name])]
    assert load_config(None, None, **change).result_options(*names) == Config().result_options(*names)


def _result(info: FieldInfo) -> bool:
    return isinstance(info.json_schema_extra, dict) and info.json_schema_extra["result"] is True


def test_open_storage_uses_storage_options() -> None:
    storage = load_config(
        root="s3://bucket/x", storage={"endpoint": "http://127.0.0.1:9", "region": "eu-west-1", "profile": "p"}
    ).open_storage()
    assert (storage.root, storage.endpoint) == ("s3://bucket/x", "http://127.0.0.1:9")
    assert (storage.region, storage.profile) == ("eu-west-1", "p")
