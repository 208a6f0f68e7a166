"""Which pictures are shown, and that a damaged one does not stop the report."""

from __future__ import annotations

import base64
import io

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raypipe import tables
from raypipe.report import example_pictures, training_results
from raypipe.tables.root_tables import RootTables
from tests.deadly import deadly
from tests.report.root import Built, jpeg

__all__ = ["deadly"]


def test_extremes_are_ordered_by_score(shared: Built) -> None:
    root_tables = RootTables.open(shared.storage)
    found = example_pictures.build(root_tables, None, 5)
    assert found is not None
    ordered = shared.labels.sort_values("score", ascending=False)["post_id"].tolist()
    assert [picture.post_id for picture in found.scored[0].pictures] == ordered[:5]
    assert [picture.post_id for picture in found.scored[1].pictures] == ordered[:-6:-1]
    assert found.sure == []


def test_surest_predictions_are_best_model_on_validation(shared: Built) -> None:
    root_tables = RootTables.open(shared.storage)
    trained = training_results.build(root_tables)
    found = example_pictures.build(root_tables, trained, 6)
    assert trained is not None
    assert trained.best is not None
    assert found is not None
    assert (found.model, found.split) == (trained.best.key, "val")
    own = shared.predictions.query("configuration == @trained.best.key and split == 'val'").set_index("post_id")
    top, bottom = found.sure
    probabilities = [own.loc[picture.post_id, "probability"] for picture in top.pictures]
    assert probabilities == sorted(own["probability"], reverse=True)[:6]
    assert all(own.loc[picture.post_id, "probability"] <= 0.5 for picture in bottom.pictures)
    for picture in (*top.pictures, *bottom.pictures):
        assert picture.truth == own.loc[picture.post_id, "label"]
        assert picture.source is not None


def test_examples_show_only_predicted_classes(built: Built) -> None:
    root_tables = RootTables.open(built.storage)
    trained = training_results.build(root_tables)
    assert trained is not None
    assert trained.predictions is not None
    trained.predictions["probability"] = 0.9
    found = example_pictures.build(root_tables, trained, 6)
    assert found is not None
    assert [row.title for row in found.sure] == ["Classified “top”, most confident first"]


def test_pictures_that_cannot_be_decoded_have_no_thumbnail(built: Built, deadly: bytes) -> None:
    first = built.labels.sort_values("score", ascending=False)["post_id"].tolist()[:5]
    odd = dict(zip(first, [b"not a picture", deadly, jpeg(0.0)[:200]], strict=False))
    for path in tables.data_paths(built.storage, "images"):
        rows = pq.read_table(path)
        pairs = zip(rows["post_id"].to_pylist(), rows["image"].to_pylist(), strict=True)
        images = pa.array([odd.get(post_id, image) for post_id, image in pairs], pa.binary())
        pq.write_table(rows.set_column(rows.column_names.index("image"), "image", images), path)
    found = example_pictures.build(RootTables.open(built.storage), None, 5)
    assert found is not None
    assert [picture.source is None for picture in found.scored[0].pictures] == [True, True, True, False, False]
    assert all(picture.source for picture in found.scored[1].pictures)


def test_odd_exif_does_not_break_thumbnail() -> None:
    sink = io.BytesIO()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\0\0\x02\0\0\0\x04abc\0\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    Image.new("RGB", (30, 20)).save(sink, "JPEG", exif=exif)
    assert example_pictures.thumbnail(sink.getvalue()) is not None


def test_thumbnails_are_small_squares(shared: Built) -> None:
    source = example_pictures.thumbnail(jpeg(0.5, side=900))
    assert source is not None
    data = base64.b64decode(source.partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (168, 168)
    assert len(data) < 10_000
    assert shared.storage.exists("images/_run.json")


def test_zero_examples_show_nothing(shared: Built) -> None:
    assert example_pictures.build(RootTables.open(shared.storage), None, 0) is None
