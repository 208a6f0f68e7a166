"""Finds the eligible posts and the coefficients, with the functions that `label` uses. Prints the seconds as JSON.

``python -m benchmarks.label.fit_only ROOT THREADS ELIGIBLE``. `label` also computes statistics, in another pass.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from raypipe import tables
from raypipe.config.load import load_config
from raypipe.label.engines import open_engine
from raypipe.label.formula.formula import parse
from raypipe.label.passes import eligible_posts
from raypipe.label.regression.fitting import fit_coefficients, make_design


def main() -> None:
    """Time both steps for the paper's formula."""
    root, threads, eligible = sys.argv[1:]
    config = load_config(root=root, ray={"num_cpus": int(threads)}, label={"eligible": eligible})
    storage = config.open_storage()
    n = tables.get_record(storage, "posts").rows_out
    started = time.perf_counter()
    with open_engine(config, storage, n) as engine:
        posts = eligible_posts(engine, storage, config.label)
        formula = parse(config.label.formula)

        def map_blocks(function: Callable[[pa.Table], Any], more: tuple[str, ...] = ()) -> list[Any]:
            return posts.map_blocks(lambda _, rows: function(rows), [*formula.variables, *more], "Fitting")

        solution = fit_coefficients(map_blocks, make_design(map_blocks, formula, posts.schema))
    print(json.dumps({"fit_s": time.perf_counter() - started, "n": solution.n, "params": solution.params.tolist()}))


if __name__ == "__main__":
    main()
