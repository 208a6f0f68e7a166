"""README.md of an exported model: what it is, its training data, how good it is, its limits, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from raypipe.export.model import model_results, training_data, usage
from raypipe.export.model.compare_files import OutputComparison
from raypipe.export.model.limits import LIKES_SCHEMES, limit_sentences
from raypipe.export.model.markdown import code, listed, table, text
from raypipe.export.model.torchvision_recipe import TorchvisionRecipe
from raypipe.export.model.training_origin import TrainingOrigin
from raypipe.predict.model import TrainedModel
from raypipe.report import judge_results
from raypipe.report.headline import percent
from raypipe.statistics import paper
from raypipe.tables.root_tables import RootTables
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.weights import VGG16

_UNKNOWN_TRAINING = (
    "It was trained elsewhere. This root has no data on its training or its quality. Find them before you use it."
)
_LABELS_CHANGED = (
    "The labels in this root were made again after the training, so they are not those that the model was trained on."
)


@dataclass(frozen=True)
class ExportedModel:
    """The model of a card. `config` is the contents of config.json; `origin` is None if the training is unknown."""

    model: TrainedModel
    config: dict[str, Any]
    origin: TrainingOrigin | None
    torchvision_recipe: TorchvisionRecipe | None
    checked: Sequence[OutputComparison]


def model_card(exported: ExportedModel, root_tables: RootTables) -> bytes:
    """README.md in Markdown, with the header that Hugging Face reads."""
    origin, config = exported.origin, exported.config
    data = training_data.build(root_tables, origin) if origin is not None and origin.same_labels else None
    scheme = data.scheme if data is not None else None
    results = None
    if origin is not None:
        is_paper = scheme == "residual" and config["model"] == VGG16 and config["head"] == "binary"
        results = model_results.build(root_tables, origin, exported.model.head.target, is_paper=is_paper)
    checked = {item.file: item for item in exported.checked}
    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, autoescape=False)
    template = environment.from_string((files("raypipe.export.model") / "card.md").read_text(encoding="utf-8"))
    return template.render(
        tags=["raypipe", "onnx"] if "model.onnx" in checked else ["raypipe"],
        title=f"{_TITLES.get(scheme or '', 'Picture classifier')}: {text(config['model'])}, {_configuration(config)}",
        what=_task_text(exported.model, scheme),
        facts=table(["", ""], _facts(exported), numbers=False),
        not_quality=": likes do not measure a person's worth, looks or character" if scheme in LIKES_SCHEMES else "",
        data=_data(data, origin, root_tables),
        results=_results(results, origin, config),
        limits=limit_sentences(config, data, results),
        files=table(["file", "content", "checked"], _files(checked, config["output"]["name"]), numbers=False),
        no_onnx="" if "model.onnx" in checked else _NO_ONNX,
        reading=usage.reading_code(exported.model),
        footnote=f"[^paper]: {paper.CITATION} (2016)." if scheme == "residual" else "",
        uses=usage.usage_examples(exported.model, exported.torchvision_recipe, onnx="model.onnx" in checked),
    ).encode()


_NO_ONNX = "There is no `model.onnx`: it was turned off, or packages were missing (`pip install 'raypipe[export]'`)."
_START = {"random": "random weights: nothing was pretrained"}
_TITLES = {
    "residual": "Likability classifier",
    "karpathy": "Likability classifier",
    "continuous": "Likability score",
    "quantiles": "Classifier of likes",
    "hashtags": "Hashtag classifier",
}


def _configuration(config: dict[str, Any]) -> str:
    form = "" if config["form"] == "paper" else f", {text(config['form'])} form"
    return f"configuration {config['configuration']}{form}"


def _task_text(model: TrainedModel, scheme: str | None) -> str:
    target = model.head.target
    if target.kind == "binary":
        said = f"For a picture it gives the probability of {code(target.names[1])} rather than {code(target.names[0])}"
        if scheme == "residual":
            return (
                f"{said}: its post got far more likes than its author's reach explains, or far fewer. "
                "The method is by Merrick, Cassady and Banerjee[^paper]."
            )
        return f"{said}."
    if target.kind == "classes":
        return f"For a picture it gives the probability of each of {len(target.names)} classes: {listed(target.names)}."
    if target.kind == "tags":
        return (
            f"For a picture it gives the probability that its author wrote a hashtag in the caption, for each of "
            f"{len(target.names)} hashtags: {listed(target.names)}."
        )
    return (
        "For a picture it estimates the score: the likes of its post minus the likes that its author's reach explains, "
        "on the scale of the regression below."
    )


def _facts(exported: ExportedModel) -> list[tuple[str, str]]:
    config, network = exported.config, exported.model.network
    size, output = config["image_size"], config["output"]
    n = sum(value.numel() for value in network.parameters())
    what = "frozen body, trained last layer" if network.frozen else "trained end to end"
    if config["model"] == VGG16:
        what = CONFIGURATIONS[config["configuration"]].description
    found = [
        ("network", f"{text(config['model'])}, {_configuration(config)} ({what}); {n:,} parameters, float32"),
        ("started from", _START.get(config["weights_from"], f"weights {code(config['weights_from'])}")),
        ("input", f"`pictures`, uint8 [n, 3, {size}, {size}], RGB, 0 to 255; normalised inside"),
        ("output", f"{code(output['name'])}, float32 [{', '.join(output['shape'])}]: {text(output['meaning'])}"),
    ]
    if config["labels"]:
        found.append(("labels, in order", listed(config["labels"])))
    if exported.origin is not None:
        found.append(("training", _training(exported.origin, config["training"]["options"])))
    return [*found, ("exported by", f"raypipe {config['raypipe']}")]


def _training(origin: TrainingOrigin, options: dict[str, Any]) -> str:
    trial, record, trained = origin.trial, origin.record, len(origin.trial.rows)
    parts = [f"trial {text(trial.trial)}", f"epoch {trial.best['epoch']} of {trained}"]
    if options.get("epochs", trained) != trained:
        parts[-1] += f" (at most {options['epochs']})"
    if "batch_size" in options:
        parts.append(f"batches of {options['batch_size']}")
    if options.get("learning_rate") is not None:
        parts.append(f"learning rate {options['learning_rate']:g}")
    parts.append(f"seed {trial.seed}")
    return f"{', '.join(parts)}; {record.finished_at:%Y-%m-%d}, torch {text(record.versions.get('torch', '?'))}"


def _data(data: training_data.TrainingData | None, origin: TrainingOrigin | None, root_tables: RootTables) -> list[str]:
    if data is None:
        return [_UNKNOWN_TRAINING if origin is None else _LABELS_CHANGED]
    found = []
    if data.generated:
        found.append(
            "**The posts and pictures are generated** by `raypipe world`. They show no real person, and the model is "
            "not for real pictures."
        )
    date_range = f" Posts are from {data.date_range}." if data.date_range else ""
    found.append(f"{data.label_method} Included are {data.eligible_text}.{date_range}")
    steps = [(step.name, step.count, f"{100 * step.share:.1f} %") for step in data.steps]
    found.append(table(["", "posts", "of the first"], steps))
    classes = [(name if name == "all" else code(name), *counts) for name, counts in data.classes]
    found.append(table(["label", *data.splits], classes))
    dropped = "; ".join(f"{n:,} {text(reason)}" for reason, n in data.dropped)
    left_out = f" Posts left out of the training: {dropped}." if dropped else ""
    found.append(f"Split {data.split}.{left_out}")
    found += map(text, data.warnings)
    judged = judge_results.build(root_tables)
    if judged is not None:
        found.append("\n".join(f"- {text(sentence)}" for sentence in judged.sentences))
    return found


def _results(
    results: model_results.ModelResults | None, origin: TrainingOrigin | None, config: dict[str, Any]
) -> list[str]:
    if results is None or origin is None:
        return [_UNKNOWN_TRAINING]
    found = []
    best = results.test_or_val
    if best is not None:
        ceiling = [("a perfect judge", best.metric.text(best.ceiling))] if best.ceiling else []
        rows = [
            (split, seen.n, seen.metric.text(seen.value), seen.interval, seen.metric.text(seen.chance),
             *(text for _, text in ceiling))
            for split, seen in (
                ("validation" if name == "val" else "test", seen) for name, seen in results.measured.items()
            )
        ]  # fmt: skip
        header = ["", "pictures", best.metric.name, "95 % interval", best.metric.guess]
        header += [name for name, _ in ceiling]
        found += [table(header, rows), f"It {best.sentence} The intervals treat the pictures of one user as a group."]
        if origin.n_trials > 1:
            found.append(
                f"{origin.n_trials} trials were compared on the validation pictures, so the validation result of "
                "the best trial is too good."
            )
        if best.tags:
            tags = [(code(tag.name), percent(tag.prevalence), *map(best.metric.text, (tag.roc_auc, tag.low, tag.high)))
                    for tag in best.tags]  # fmt: skip
            found.append(table(["hashtag", "share of pictures", "ROC AUC", "95 % from", "to"], tags))
    seeds = [(row.seed, row.best_epoch, row.epochs, row.val, row.final, row.test) for row in results.seeds]
    name = results.name
    header = ["seed", "best epoch", "epochs", f"validation {name}", "after the last epoch", f"test {name}"]
    found.append(table(header, seeds))
    if results.seed_spread:
        found.append(
            f"This file is from seed {origin.trial.seed}. Over the {len(seeds)} seeds the validation {name} is "
            f"{results.seed_spread} (mean and standard deviation)."
        )
    if results.paper_row is not None:
        people = " and ".join(percent(person.accuracy, 0) for person in paper.TABLE_2)
        found.append(
            f"The paper[^paper] reports {percent(results.paper_row.max_val_accuracy)} for configuration "
            f"{config['configuration']} at its best epoch. It had {paper.LABELLED:,} other pictures, a quarter of them "
            f"for validation, and pretrained weights. Two people got {people} of {paper.TABLE_2[0].pictures} right."
        )
    return found


_FILE_TEXTS = {
    "model.safetensors": "the weights, with raypipe's names: for `raypipe predict`, and for further training",
    "config.json": "network, preprocessing, labels, source of the weights",
    "model.pt2": "the whole graph by `torch.export`, from pixels to {}",
    "model.onnx": "the same graph as ONNX",
}


def _files(checked: dict[str, OutputComparison], output: str) -> list[tuple[str, str, str]]:
    rows = []
    for name, what in _FILE_TEXTS.items():
        if name == "model.onnx" and name not in checked:
            continue
        said = checked[name].result_text if name in checked else ""
        rows.append((f"`{name}`", what.format(output), said))
    return rows
