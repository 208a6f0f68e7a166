"""The peer for small tables: the same job as a plain script of pandas and statsmodels. Prints its seconds as JSON.

``python plain_script.py POSTS_FOLDER OUTPUT``
"""

from __future__ import annotations

import json
import sys
import time

_before = time.perf_counter()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import statsmodels.formula.api as smf  # noqa: E402

_imports = time.perf_counter() - _before


def main() -> None:
    """Fit, score, deciles with ties by post_id, a stratified quarter held out, one Parquet file."""
    folder, output = sys.argv[1:]
    started = time.perf_counter()
    columns = ["post_id", "user_id", "likes", "followers", "n_hashtags", "deleted"]
    posts = pd.read_parquet(folder, columns=columns)
    posts = posts[~posts["deleted"]]
    posts = posts.assign(y=np.log10(1 + posts["likes"]), x=np.log10(1 + posts["followers"]))
    fit = smf.ols("y ~ x + n_hashtags", posts).fit()
    posts = posts.assign(fitted=fit.fittedvalues, score=fit.resid).sort_values(["score", "post_id"])
    n = len(posts)
    rank = np.arange(1, n + 1)
    posts["label"] = np.where(rank <= n // 10, "bottom", np.where(rank > 9 * n // 10, "top", None))
    rng = np.random.default_rng(0)
    posts["split"] = None
    for _, rows in posts.groupby("label").groups.items():
        drawn = rng.permutation(rows)
        posts.loc[drawn, "split"] = "train"
        posts.loc[drawn[: len(rows) // 4], "split"] = "val"
    posts[["post_id", "user_id", "y", "fitted", "score", "label", "split"]].to_parquet(output)
    fit.summary()
    print(json.dumps({"seconds": time.perf_counter() - started, "import_s": _imports, "n": n}))


if __name__ == "__main__":
    main()
