"""Each head compared with losses, accuracies and steps written here in plain torch and numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from raypipe.errors import InputError, StageError
from raypipe.train.data.images import prepare_batch
from raypipe.train.data.preprocessing import TORCHVISION
from raypipe.train.data.target import Target
from raypipe.train.loop.fit import fit, predict
from raypipe.train.loop.random_draws import epoch_flips, epoch_order
from raypipe.train.loop.state import EpochResult, LoopOptions, LoopState
from raypipe.train.networks.configurations import A, D
from raypipe.train.networks.heads import head_from_metadata, make_head
from raypipe.train.networks.initial_weights import unit_variance_init
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights
from tests.train.small import TARGETS, Tiny, draw_labelled

OPTIONS = LoopOptions(epochs=1, batch_size=16, learning_rate=0.02, seed=7)
OTHERS = ("classes", "tags", "score")


def plain_losses(kind: str, outputs: Tensor, labels: Tensor, mean: float, sd: float) -> Tensor:
    """The loss of each picture, by its textbook formula."""
    if kind == "score":
        return (outputs - (labels - mean) / sd) ** 2
    if kind == "classes":
        return torch.logsumexp(outputs, 1) - outputs[torch.arange(len(labels)), labels]
    p = 1 / (1 + torch.exp(-outputs))
    entropy = -(labels * torch.log(p) + (1 - labels) * torch.log(1 - p))
    return entropy.mean(1) if kind == "tags" else entropy


def plain_hits(kind: str, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if kind == "classes":
        return np.array([int(np.argmax(row)) == label for row, label in zip(outputs, labels, strict=True)], float)
    right = ((outputs > 0) == (labels == 1)).astype(float)
    return right.mean(axis=1) if kind == "tags" else right


@pytest.mark.parametrize("kind", TARGETS)
def test_one_epoch_equals_plain_torch(kind: str) -> None:
    target = TARGETS[kind]
    train, val = draw_labelled(target, 70, 0), draw_labelled(target, 31, 1)
    mean, sd = (train.labels.numpy().mean(), train.labels.numpy().std()) if kind == "score" else (0.0, 1.0)
    ours, theirs = (Tiny(n_outputs=target.n_outputs) for _ in range(2))
    head = make_head(target, train.labels)
    result = fit(ours, D, train, val, OPTIONS, preprocessing=TORCHVISION, head=head)[0]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.02, momentum=0.9)
    order, flips = epoch_order(70, 7, 1), epoch_flips(70, 7, 1)
    inputs = prepare_batch(train.images, TORCHVISION, torch.from_numpy(flips))
    losses, right, clipped = 0.0, 0.0, 0
    for begin in range(0, 70, 16):
        rows = torch.from_numpy(order[begin : begin + 16])
        outputs = theirs(inputs[rows])
        loss = plain_losses(kind, outputs, train.labels[rows], mean, sd).mean()
        optimizer.zero_grad()
        loss.backward()
        if kind == "score":
            length = torch.sqrt(sum((p.grad**2).sum() for p in theirs.parameters()))
            for parameter in theirs.parameters():
                parameter.grad *= torch.clamp(1 / length, max=1)
            clipped += int(length > 1)
        optimizer.step()
        losses += loss.item() * len(rows)
        right += 0 if kind == "score" else plain_hits(kind, outputs.detach().numpy(), train.labels[rows].numpy()).sum()
    assert (clipped > 0) == (kind == "score")
    assert result.train_loss == pytest.approx(losses / 70, rel=1e-5)
    assert result.train_accuracy == (None if kind == "score" else pytest.approx(right / 70))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        outputs = theirs.eval()(prepare_batch(val.images, TORCHVISION)).double()
    assert result.val_loss == pytest.approx(plain_losses(kind, outputs, val.labels, mean, sd).mean().item(), rel=1e-4)
    if kind != "score":
        assert result.val_accuracy == pytest.approx(plain_hits(kind, outputs.numpy(), val.labels.numpy()).mean())


@pytest.mark.parametrize("kind", OTHERS)
def test_predictions_equal_validation_for_each_head(kind: str) -> None:
    target = TARGETS[kind]
    train, val = draw_labelled(target, 200, 0), draw_labelled(target, 67, 1)
    model, head = Tiny(n_outputs=target.n_outputs), make_head(target, train.labels)
    last = fit(model, D, train, val, replace(OPTIONS, epochs=12), preprocessing=TORCHVISION, head=head)[-1]
    found = predict(model, val.images, preprocessing=TORCHVISION, head=head)
    np.testing.assert_array_equal(found, last.val_probabilities)
    assert predict(model, val.images[:0], preprocessing=TORCHVISION, head=head).shape == (0, *found.shape[1:])
    truth = val.labels.numpy()
    if kind == "classes":
        assert last.val_accuracy == np.mean(found.argmax(1) == truth) > 0.8
        np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
        assert last.val_loss == pytest.approx(-np.log(found[np.arange(67), truth]).mean(), rel=1e-4, abs=1e-6)
    elif kind == "tags":
        assert last.val_accuracy == np.mean((found > 0.5) == truth) > 0.8
        assert list(last.metrics["tags"]) == list(target.names)
        for i, values in enumerate(last.metrics["tags"].values()):
            u = stats.mannwhitneyu(found[truth[:, i] == 1, i], found[truth[:, i] == 0, i]).statistic
            assert values["roc_auc"] == pytest.approx(u / (truth[:, i].sum() * (1 - truth[:, i]).sum()))
            assert values["prevalence"] == pytest.approx(truth[:, i].mean())
            assert values["accuracy"] == np.mean((found[:, i] > 0.5) == truth[:, i])
        areas = [values["roc_auc"] for values in last.metrics["tags"].values()]
        assert last.metrics["roc_auc"] == pytest.approx(np.mean(areas))
        assert last.metrics["roc_auc"] > 0.8
    else:
        assert last.val_accuracy is None
        assert last.metrics["r2"] > 0.5
        assert last.metrics["rmse"] == pytest.approx(np.sqrt(np.mean((found - truth) ** 2)))
        assert last.metrics["spearman"] == pytest.approx(stats.spearmanr(found, truth).statistic)


def test_score_head_does_not_diverge() -> None:
    target = TARGETS["score"]
    train, val = draw_labelled(target, 64, 0), draw_labelled(target, 30, 1)

    class Long(torch.nn.Module):
        """A linear unit on 3 × 256 brightnesses, a vector with a length of about 20."""

        def __init__(self) -> None:
            super().__init__()
            self.logit = torch.nn.Linear(768, 1)
            torch.nn.init.zeros_(self.logit.weight)

        def forward(self, images: Tensor) -> Tensor:
            return self.logit(images.flatten(1)).squeeze(1)

    head = make_head(target, train.labels)
    options = replace(OPTIONS, epochs=10, learning_rate=0.02)
    results = fit(Long(), A, train, val, options, preprocessing=TORCHVISION, head=head)
    assert max(result.val_loss for result in results) < 2
    head.max_gradient = None  # type: ignore[misc]
    with pytest.raises(StageError, match="the loss is"):
        fit(Long(), A, train, val, replace(options, epochs=30), preprocessing=TORCHVISION, head=head)


def test_best_score_epoch_has_lowest_validation_loss() -> None:
    train, val = draw_labelled(TARGETS["score"], 60, 0), draw_labelled(TARGETS["score"], 30, 1)
    seen: list[tuple[float, int]] = []

    def keep(result: EpochResult, state: LoopState) -> bool:
        seen.append((result.val_loss, state.best_epoch))
        return False

    head = make_head(TARGETS["score"], train.labels)
    options = replace(OPTIONS, epochs=8, learning_rate=0.06)
    fit(Tiny(), D, train, val, options, preprocessing=TORCHVISION, head=head, on_epoch=keep)
    losses = [loss for loss, _ in seen]
    assert losses != sorted(losses), "the last epoch must not always be the best, or nothing is shown"
    assert [best for _, best in seen] == [int(np.argmin(losses[: i + 1])) + 1 for i in range(8)]


@pytest.mark.parametrize("kind", ["tags", "score"])
def test_cached_features_give_same_training_results(kind: str) -> None:
    target = TARGETS[kind]
    train, val = draw_labelled(target, 40, 0, size=32), draw_labelled(target, 9, 1, size=32)
    head = make_head(target, train.labels)

    def run(cached: bool) -> list[EpochResult]:
        model = build_vgg(A, image_size=32, weights=load_weights("random"), seed=0, target=target)
        before = model.logit.weight.clone()
        unit_variance_init(model, prepare_batch(train.images, TORCHVISION))
        assert torch.equal(model.logit.weight, before), "the last layer is no hidden one, however wide"
        options = replace(OPTIONS, epochs=2, learning_rate=0.005, cache_features=cached)
        return fit(model, A, train, val, options, preprocessing=TORCHVISION, head=head)

    for fast, slow in zip(run(True), run(False), strict=True):
        assert fast.train_loss == pytest.approx(slow.train_loss, rel=1e-4)
        np.testing.assert_allclose(fast.val_probabilities, slow.val_probabilities, rtol=1e-3, atol=1e-4)


def test_single_tag_has_one_output_column() -> None:
    target = Target("tags", ("sea",))
    train, val = draw_labelled(target, 64, 0), draw_labelled(target, 20, 1)
    head = make_head(target, train.labels)
    result = fit(Tiny(), D, train, val, OPTIONS, preprocessing=TORCHVISION, head=head)[0]
    assert result.val_probabilities.shape == (20, 1)
    assert result.val_accuracy == np.mean((result.val_probabilities > 0.5) == val.labels.numpy())


def test_score_predictions_have_original_unit() -> None:
    head = make_head(TARGETS["score"], torch.tensor([2.0, 4.0, 9.0], dtype=torch.float64))
    assert head.predictions(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([5.0, 5.0 + np.std([2, 4, 9])])
    restored = head_from_metadata(head.as_metadata())
    assert restored.predictions(torch.tensor([0.7])).tolist() == head.predictions(torch.tensor([0.7])).tolist()


@pytest.mark.parametrize("kind", TARGETS)
def test_head_metadata_round_trip(kind: str) -> None:
    head = make_head(TARGETS[kind], torch.tensor([1.0, 2.0]))
    restored = head_from_metadata(head.as_metadata())
    assert type(restored) is type(head)
    assert restored.target == TARGETS[kind]
    with pytest.raises(KeyError):
        head_from_metadata({})


@pytest.mark.parametrize(
    ("kind", "labels", "message"),
    [
        ("binary", torch.ones(5), "all 5 training images have the same class"),
        ("classes", torch.full((5,), 2), "all 5 training images have the same class"),
        ("tags", torch.tensor([[1.0, 0.0, 1.0]] * 5), "all 5 training images have the same hashtags"),
        ("score", torch.full((5,), 0.25, dtype=torch.float64), "all 5 training images have the same score"),
        ("classes", torch.tensor([0, 3]), r"class number 3 for 3 classes \(classes \(q1, q2, q3\)\)"),
        ("classes", torch.tensor([0.0, 1.0]), r"labels of torch.float32 \[n\] do not fit the target classes"),
        ("tags", torch.tensor([0.0, 1.0]), r"labels of torch.float32 \[n\] do not fit the target tags"),
        ("binary", torch.tensor([0, 1]), r"labels of torch.int64 \[n\] do not fit the target binary"),
    ],
)
def test_unsuitable_labels_are_refused(kind: str, labels: Tensor, message: str) -> None:
    head = make_head(TARGETS[kind], labels)
    with pytest.raises(InputError, match=message):
        head.check(labels, labels)
