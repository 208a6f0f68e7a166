"""A training step of C and a feature pass of A on a CPU, against the best plain torch script for the same work.

First, a short probe finds the best way to write the script here: arithmetic, memory layout, SGD's implementation,
batch, torch.compile. Then the loop itself runs. After each of its steps or passes, every peer does one with as many
pictures, so that other load on the machine affects all of them alike.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from benchmarks import results
from benchmarks.processes import machine_busy
from benchmarks.train.generated import pictures
from benchmarks.train.plain_torch import PlainPass, PlainStep, Writing
from raypipe.train.loop.choices import compute_dtype, memory_format_choice
from raypipe.train.loop.fit import fit
from raypipe.train.loop.inputs import DType, evaluation_batch, extract_features
from raypipe.train.loop.state import LoopOptions
from raypipe.train.networks.configurations import CONFIGURATIONS
from raypipe.train.networks.vgg import build_vgg
from raypipe.train.networks.weights import load_weights

_GOAL = 1.02
_MUCH_SLOWER = 2.0
_CLOSE = 1.05
_MOST_PEERS = 2
_OURS, _OTHERS = "raypipe", "others_cpu_s"

Work = Callable[[], object]


def main() -> int:
    """Measure, print, write."""
    given = _arguments()
    dtypes = _dtypes()
    own = compute_dtype("auto", "cpu")
    print(f"arithmetic to try: {', '.join(dtypes)}; the loop uses {own}", flush=True)
    found = {"step of C": _step(given, dtypes, own), "feature pass of A": _pass(given, dtypes, own)}
    _report(given, dtypes, found)
    return 0


def _arguments() -> argparse.Namespace:
    made = results.parser(__doc__, 64, "pictures per feature pass")
    made.add_argument("--size", type=int, default=224, help="pixels of a side")
    made.add_argument("--batch", type=int, default=32, help="pictures per step")
    made.add_argument(
        "--probe", type=int, default=8, help="pictures per step of the probe; a pass has four times as many"
    )
    made.add_argument("--no-compile", action="store_true", help="leave torch.compile out of the probe")
    made.set_defaults(runs=5)
    return made.parse_args()


def _dtypes() -> list[str]:
    """float32, and bfloat16 unless a convolution in it takes twice as long (100 times without special instructions)."""
    layer, noise = nn.Conv2d(64, 64, 3, padding=1), torch.randn(2, 64, 56, 56)

    def convolve(dtype: str) -> None:
        with Writing(dtype).arithmetic():
            layer(noise).float().sum().backward()

    seconds = {dtype: _best_of(lambda dtype=dtype: convolve(dtype), 3) for dtype in ("float32", "bfloat16")}
    return [dtype for dtype, taken in seconds.items() if taken < _MUCH_SLOWER * seconds["float32"]]


def _best_of(work: Work, times: int) -> float:
    """The least seconds of `times` calls, after a first call that is not timed."""
    work()
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)


def _step(given: argparse.Namespace, dtypes: list[str], own: DType) -> dict[str, Any]:
    train = pictures((given.runs + 1) * given.batch, given.size, 0)

    def make(writing: Writing, batch: int) -> Work:
        return PlainStep(writing, train.images, train.labels, batch)

    first = memory_format_choice(torch.device("cpu"), own).value == "channels first"
    layouts = ("contiguous", "channels_last") if first else ("channels_last", "contiguous")
    same = Writing(own, layouts[0], update="fused")
    choices: dict[str, list[Any]] = {"dtype": dtypes, "layout": [layouts[1]], "update": ["foreach", "single"]}
    probed = _search("step", same, choices, lambda writing: make(writing, given.probe), given)
    alternation = _Alternation({peer: make(peer, given.batch) for peer in _finalists(probed, same)})
    configuration, weights = CONFIGURATIONS["C"], load_weights("random")
    model = build_vgg(configuration, image_size=given.size, weights=weights, seed=0, init="he")
    options = LoopOptions(epochs=1, batch_size=given.batch, learning_rate=1e-5, dtype=own)
    val = pictures(2, given.size, 1)

    def see(done: int, _total: int) -> None:
        # The validation pictures come last and are not measured.
        if done <= len(train):
            alternation.after_batch()

    fit(model, configuration, train, val, options, preprocessing=weights.preprocessing, on_batch=see)
    return _found(alternation, probed, same, given.batch, warm=1, rounds=given.runs)


def _pass(given: argparse.Namespace, dtypes: list[str], own: DType) -> dict[str, Any]:
    device = torch.device("cpu")
    images = pictures(given.images, given.size, 0).images
    few = images[: 4 * given.probe]
    batch = evaluation_batch(device)
    same = Writing(own, grad="no_grad", batch=batch)
    others = [size for size in (8, 16, 64) if size != batch and size <= len(few)]
    choices: dict[str, list[Any]] = {
        "dtype": dtypes,
        "layout": ["contiguous"],
        "grad": ["inference_mode"],
        "batch": others,
    }
    probed = _search("pass", same, choices, lambda writing: PlainPass(writing, few), given)
    alternation = _Alternation({peer: PlainPass(peer, images) for peer in _finalists(probed, same)})
    weights = load_weights("random")
    model = build_vgg(CONFIGURATIONS["A"], image_size=given.size, weights=weights, seed=0, init="he")

    def see(done: int, total: int) -> None:
        if done == total:
            alternation.after_batch()

    for _ in range(given.runs + 1):
        alternation.begin()
        extract_features(model, images, weights.preprocessing, device=device, dtype=own, on_batch=see)
    return _found(alternation, probed, same, given.images, warm=1, rounds=given.runs)


def _search(
    what: str, start: Writing, choices: dict[str, list[Any]], make: Callable[[Writing], Work], given: argparse.Namespace
) -> dict[Writing, float]:
    """The least seconds of each writing. Tries one choice after the other, each on the best writing so far."""
    if not given.no_compile:
        choices = {**choices, "compiled": [True]}
    probed: dict[Writing, float] = {}

    def probe(writing: Writing) -> None:
        if writing in probed:
            return
        try:
            probed[writing] = _best_of(make(writing), 1)
        except Exception as error:
            # torch.compile needs a compiler, among other things. Not every machine has them.
            if not writing.compiled:
                raise
            print(f"probe, {what}, {writing}: does not work here: {type(error).__name__}", flush=True)
            return
        print(f"probe, {what}, {writing}: {probed[writing]:.3g} s", flush=True)

    probe(start)
    for name, values in choices.items():
        best = min(probed, key=lambda writing: probed[writing])
        for value in values:
            probe(replace(best, **{name: value}))
    return probed


def _finalists(probed: dict[Writing, float], same: Writing) -> list[Writing]:
    """The scripts to compare in full: the one written as the loop is, and the fastest ones in the probe."""
    by_speed = sorted(probed, key=lambda writing: probed[writing])
    close = [writing for writing in by_speed if probed[writing] <= _CLOSE * probed[by_speed[0]]]
    return list(dict.fromkeys([same, *close[:_MOST_PEERS]]))


class _Alternation:
    """Runs one step or pass of each peer after each of the loop's. Keeps the seconds of all of them by round."""

    def __init__(self, peers: dict[Writing, Work]) -> None:
        self.peers = peers
        self.rounds: list[dict[str, float]] = []
        self.begin()

    def begin(self) -> None:
        """Start the clock for the loop's next step or pass."""
        self._busy, self._used = machine_busy(), time.process_time()
        self._began = time.perf_counter()

    def after_batch(self) -> None:
        """Stop the loop's clock and run the peers. Another peer is the first in each round."""
        seconds = {_OURS: time.perf_counter() - self._began}
        turn = len(self.rounds) % len(self.peers)
        peers = list(self.peers.items())
        for writing, work in [*peers[turn:], *peers[:turn]]:
            started = time.perf_counter()
            work()
            seconds[str(writing)] = time.perf_counter() - started
        others = machine_busy() - self._busy - (time.process_time() - self._used)
        self.rounds.append({**seconds, _OTHERS: max(0.0, others)})
        self.begin()


def _found(
    alternation: _Alternation, probed: dict[Writing, float], same: Writing, n: int, *, warm: int, rounds: int
) -> dict[str, Any]:
    """The results of the rounds. The first `warm` rounds are left out, because they compile, allocate and set up."""
    kept = alternation.rounds[warm:]
    if len(kept) != rounds:
        raise RuntimeError(f"the loop reported {len(alternation.rounds)} batches, not {warm + rounds}")
    best = min(map(str, alternation.peers), key=lambda name: statistics.median(row[name] for row in kept))
    return {
        "pictures_a_round": n,
        "probe_s": {str(writing): seconds for writing, seconds in probed.items()},
        "as_the_loop": str(same),
        "best": best,
        "times_best": results.spread([row[_OURS] / row[best] for row in kept]),
        "overhead": results.spread([row[_OURS] / row[str(same)] - 1 for row in kept]),
        "rounds": kept,
    }


def _report(given: argparse.Namespace, dtypes: list[str], found: dict[str, dict[str, Any]]) -> None:
    rows, goals = [], []
    for work, what in found.items():
        for name in (key for key in what["rounds"][0] if key != _OTHERS):
            seconds = [row[name] for row in what["rounds"]]
            rows.append(
                {
                    "work": f"{work}, {what['pictures_a_round']} pictures",
                    "program": name,
                    "s": results.shown(seconds, 3),
                    "images/s": f"{what['pictures_a_round'] / statistics.median(seconds):.3g}",
                    "others' CPU-s per round": results.shown([row[_OTHERS] for row in what["rounds"]], 1),
                }
            )
        text = f"seconds of a {work}, divided by those of the best plain script ({what['best']})"
        goals.append(results.goal(text, what["times_best"]["median"], _GOAL, at_least=False))
        text = f"the loop's overhead in a {work} over a plain script written like it ({what['as_the_loop']})"
        goals.append(results.goal(text, what["overhead"]["median"], _GOAL - 1, at_least=False))
    print("\n" + results.table(rows))
    for one in goals:
        print(results.said(one))
    keys = ("images", "size", "batch", "probe", "runs")
    content = {
        "configuration": {key: getattr(given, key) for key in keys} | {"threads": torch.get_num_threads()},
        "arithmetic": dtypes,
        "goals": goals,
        "found": found,
    }
    print(results.write(given.results, "cpu_step", content, subject="train").name)


if __name__ == "__main__":
    sys.exit(main())
