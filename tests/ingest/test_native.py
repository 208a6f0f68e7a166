"""A picture that crashes the decoder or the detector costs one row of the stage, not the run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from raypipe import tables
from raypipe.storage import Storage
from tests.commands import RAYPIPE, RAYPIPE_ON_RAY
from tests.ingest.conftest import WebServer, body, picture

POSTS = 60
SIZE = (61, 47)
BAD = {kind: picture(kind, SIZE, seed=9) for kind in ("JPEG", "WEBP")}

pytestmark = pytest.mark.timeout(400)

ON_RAY = pytest.mark.cluster

# Every Python process of the run imports this first. A picture of one size then crashes the process that decodes it,
# opens it, or looks for faces in it.
DEADLY = f"""
import ctypes, os, sys

def deadly(size):
    if tuple(size) == {SIZE}:
        ctypes.string_at(0)

if os.environ.get("DEADLY") == "decoding":
    from PIL import ImageFile
    load = ImageFile.ImageFile.load
    ImageFile.ImageFile.load = lambda self: (deadly(self.size), load(self))[1]
elif os.environ.get("DEADLY") == "opening":
    from PIL import WebPImagePlugin
    opened = WebPImagePlugin.WebPImageFile._open
    WebPImagePlugin.WebPImageFile._open = lambda self: (opened(self), deadly(self.size))[0]
elif os.environ.get("DEADLY") == "detecting":
    import dlib
    made = dlib.get_frontal_face_detector

    class Detector:
        def __init__(self):
            self.detector = made()
        def run(self, pixels, *rest):
            deadly(pixels.shape[1::-1])
            return self.detector.run(pixels, *rest)

    dlib.get_frontal_face_detector = Detector
"""


@pytest.mark.parametrize(
    ("deadly", "kind", "faces", "status", "error"),
    [
        ("decoding", "JPEG", "true", "not_an_image", "the decoder's process ended: SIGSEGV"),
        ("detecting", "JPEG", "true", "ok", "faces not counted: the detector's process ended: SIGSEGV"),
        # Headers are read in the command's process or in fetch actors. JPEG headers are read in Python.
        pytest.param(
            *("opening", "WEBP", "false", "not_an_image", "the decoder's process ended: SIGSEGV"),
            marks=pytest.mark.cluster,
        ),
    ],
)
@pytest.mark.parametrize(
    "program", [pytest.param(RAYPIPE, id="here"), pytest.param(RAYPIPE_ON_RAY, id="on_ray", marks=ON_RAY)]
)
def test_native_crash_costs_one_row(
    tmp_path: Path,
    server: WebServer,
    deadly: str,
    kind: str,
    faces: str,
    program: tuple[str, ...],
    status: str,
    error: str,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    server.behave("/17.jpg", body(BAD[kind]))
    ids = range(POSTS)
    urls = [server.url(f"/{i}.jpg") for i in ids]
    pd.DataFrame({"post_id": [str(i) for i in ids], "image_url": urls, "likes": ids, "followers": ids}).to_csv(
        tmp_path / "posts.csv", index=False
    )
    words = [
        "ingest",
        "--posts",
        str(tmp_path / "posts.csv"),
        "--root",
        str(tmp_path / "root"),
        "--faces.enabled",
        faces,
    ]
    words += ["--ingest.allow_private", "--ingest.allow_ports", str(server.port), "--ray.dashboard", "false"]
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment = {**kept, "PYTHONPATH": str(tmp_path), "DEADLY": deadly}
    done = subprocess.run([*program, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = {row["post_id"]: row for row in tables.read_table(Storage(str(tmp_path / "root")), "images").to_pylist()}
    assert sorted(rows) == sorted(map(str, ids))
    bad = rows.pop("17")
    assert (bad["status"], bad["error"], bad["n_faces"]) == (status, error, None)
    assert (bad["n_bytes"], bad["format"], len(bad["sha256"])) == (len(BAD[kind]), kind, 64)
    assert bad["image"] == (BAD[kind] if status == "ok" else None)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {row["n_faces"] for row in rows.values()} == ({0} if faces == "true" else {None})
