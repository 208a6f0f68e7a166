"""The peer: the same job in DuckDB's SQL. Needs a Python that has duckdb. Prints its seconds as JSON.

``python duckdb_peer.py fit|label POSTS_GLOB OUTPUT THREADS MEMORY_GB [IMAGES_GLOB]``: with images, only one-face posts
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import duckdb

_POSTS = """
    SELECT post_id, user_id, log10(1 + likes) AS y, log10(1 + followers) AS x1, n_hashtags::DOUBLE AS x2
    FROM read_parquet('{posts}') WHERE NOT deleted
"""

_ONE_FACE = "AND post_id IN (SELECT post_id FROM read_parquet('{images}') WHERE status = 'ok' AND n_faces = 1)"

# The sums of the normal equations, the minimum that a regression needs.
_SUMS = (
    "SELECT count(*), sum(x1), sum(x2), sum(y), sum(x1*x1), sum(x1*x2), sum(x2*x2), sum(x1*y), sum(x2*y) FROM ({posts})"
)

# Scores, exact deciles with ties by post_id, a quarter of each class held out by a hash of the post_id, one file.
_LABEL = """
    COPY (
        WITH scored AS (
            SELECT post_id, user_id, y, {a} + {b} * x1 + {c} * x2 AS fitted, y - ({a} + {b} * x1 + {c} * x2) AS score
            FROM ({posts})
        ), ranked AS (
            SELECT *, row_number() OVER (ORDER BY score, post_id) AS r FROM scored
        ), labelled AS (
            SELECT * EXCLUDE r, CASE WHEN r <= {low} THEN 'bottom' WHEN r > {high} THEN 'top' END AS label FROM ranked
        ), drawn AS (
            SELECT post_id, row_number() OVER (PARTITION BY label ORDER BY hash(post_id)) AS k,
                   count(*) OVER (PARTITION BY label) AS n
            FROM labelled WHERE label IS NOT NULL
        )
        SELECT labelled.*, CASE WHEN k IS NULL THEN NULL WHEN k <= n // 4 THEN 'val' ELSE 'train' END AS split
        FROM labelled LEFT JOIN drawn USING (post_id)
    ) TO '{output}' (FORMAT parquet, COMPRESSION zstd)
"""


def main() -> None:
    """Run one job and print its seconds."""
    what, posts, output, threads, memory, *images = sys.argv[1:]
    connection = duckdb.connect()
    connection.execute(
        f"SET threads = {threads}; SET memory_limit = '{memory}GB'; SET preserve_insertion_order = false"
    )
    connection.execute(f"SET temp_directory = '{Path(output).parent}'")
    rows = _POSTS.format(posts=posts) + "".join(_ONE_FACE.format(images=glob) for glob in images)
    started = time.perf_counter()
    n, *sums = connection.execute(_SUMS.format(posts=rows)).fetchone()
    a, b, c = _solve(n, *sums)
    fitted = time.perf_counter() - started
    found = {"duckdb": duckdb.__version__, "n": n, "params": [a, b, c], "fit_s": fitted}
    if what == "label":
        low, high = n // 10, 9 * n // 10
        connection.execute(_LABEL.format(posts=rows, a=a, b=b, c=c, low=low, high=high, output=output))
        found["label_s"] = time.perf_counter() - started
    print(json.dumps(found))


def _solve(
    n: int, x1: float, x2: float, y: float, x11: float, x12: float, x22: float, x1y: float, x2y: float
) -> list[float]:
    # Cramer's rule on the centred sums.
    s11, s12, s22 = x11 - x1 * x1 / n, x12 - x1 * x2 / n, x22 - x2 * x2 / n
    s1y, s2y = x1y - x1 * y / n, x2y - x2 * y / n
    det = s11 * s22 - s12 * s12
    b, c = (s1y * s22 - s2y * s12) / det, (s2y * s11 - s1y * s12) / det
    return [(y - b * x1 - c * x2) / n, b, c]


if __name__ == "__main__":
    main()
