"""From a posts file to posts/ and posts_rejected/: each reason and each default, and no row is lost."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe import tables
from raypipe.config import Config
from raypipe.config.data_options import ColumnOptions
from raypipe.config.load import load_config
from raypipe.errors import InputError, StageError
from raypipe.ingest import posts as module
from raypipe.ingest.posts import CheckedPosts, check_posts, ingest_posts
from raypipe.tables.input_files import InputRows
from raypipe.tables.schemas import POSTS

GOOD = {"post_id": "a", "image_url": "http://x.example/a.jpg", "likes": 5, "followers": 10}


def check(
    *rows: dict[str, Any], lines: list[tuple[str, str]] | None = None, optional: list[str] | None = None, **names: str
) -> CheckedPosts:
    raw = InputRows(pa.Table.from_pylist(list(rows)), lines or [])
    return check_posts(raw, ColumnOptions(**names), optional or [], "posts.csv")


def row(**values: Any) -> dict[str, Any]:
    return {**GOOD, **values}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"post_id": None}, "missing_post_id"),
        ({"post_id": "  "}, "missing_post_id"),
        ({"post_id": "good"}, "duplicate_post_id"),
        ({"image_url": None}, "missing_image_url"),
        ({"image_url": ""}, "missing_image_url"),
        ({"likes": "-1"}, "likes_negative"),
        ({"likes": "1.5"}, "likes_not_whole"),
        ({"likes": None}, "likes_missing"),
        ({"likes": "lots"}, "likes_not_a_number"),
        ({"likes": "1e30"}, "likes_too_large"),
        ({"followers": "-1"}, "followers_negative"),
        ({"followers": "0.5"}, "followers_not_whole"),
        ({"followers": None}, "followers_missing"),
        ({"followers": "?"}, "followers_not_a_number"),
        ({"comments": "-2"}, "comments_negative"),
        ({"n_hashtags": "3.5"}, "n_hashtags_not_whole"),
        ({"n_hashtags": "3000000000"}, "n_hashtags_too_large"),
        ({"n_hashtags": None}, "n_hashtags_missing"),
        ({"created_at": "yesterday"}, "created_at_not_a_time"),
        ({"deleted": "perhaps"}, "deleted_not_true_or_false"),
    ],
)
def test_bad_rows_are_rejected_with_reason(bad: dict[str, Any], reason: str) -> None:
    extra = {"n_hashtags": "1"} if "n_hashtags" in bad else {}
    good = {**row(post_id="good"), **{name: None for name in bad if name not in GOOD}, **extra}
    good = {name: None if value is None else str(value) for name, value in good.items()}
    found = check(good, {**good, "post_id": "bad", **bad}, {**good, "post_id": "last"})
    assert found.posts["post_id"].to_pylist() == ["good", "last"]
    assert found.rejected["reason"].to_pylist() == [reason]
    assert found.reasons == {reason: 1}
    assert found.n_rows == 3
    as_it_came = found.rejected.to_pylist()[0]
    assert {name: as_it_came[name] for name in bad} == bad


def test_optional_columns_may_be_null() -> None:
    full = row(user_id=7, comments=3, caption="#a", created_at="2016-11-08", deleted=True)
    bare = row(post_id="b", user_id=None, comments=None, caption=None, created_at=None, deleted=None)
    found = check(full, bare).posts
    assert found.schema.field("likes").nullable is False
    assert found["user_id"].to_pylist() == ["7", None]
    assert found["comments"].to_pylist() == [3, None]
    assert found["created_at"].to_pylist() == [datetime(2016, 11, 8, tzinfo=UTC), None]
    assert found["deleted"].to_pylist() == [True, False]
    assert found["n_hashtags"].to_pylist() == [1, 0]


def test_first_good_row_of_post_id_is_kept() -> None:
    found = check(row(likes=-1), row(likes=1), row(likes=2), row(post_id="b"))
    assert found.posts["likes"].to_pylist() == [1, 5]
    assert found.rejected["reason"].to_pylist() == ["likes_negative", "duplicate_post_id"]


def test_deleted_post_may_lack_url_likes_and_followers() -> None:
    gone = row(post_id="gone", image_url=None, likes=None, followers=None, deleted=True)
    found = check(row(deleted=False), gone, row(post_id="x", likes=-1, deleted=True))
    assert found.posts.to_pylist()[1] | {"n_hashtags": 0} == found.posts.to_pylist()[1]
    assert found.posts["post_id"].to_pylist() == ["a", "gone"]
    assert found.posts["image_url"].to_pylist()[1] == ""
    assert found.rejected["reason"].to_pylist() == ["likes_negative"]


def test_missing_n_hashtags_is_counted_from_caption() -> None:
    assert check(row(caption="#a #b")).posts["n_hashtags"].to_pylist() == [2]
    given_too = check(row(caption="#a #b", n_hashtags=7), row(post_id="b", caption="#a #b", n_hashtags=None))
    assert given_too.posts["n_hashtags"].to_pylist() == [7, 2]
    neither = check(row())
    assert neither.posts["n_hashtags"].to_pylist() == [0]
    assert neither.notes == ["the file has neither n_hashtags nor caption: n_hashtags is 0 for every post"]


def test_renamed_and_unknown_columns_are_kept() -> None:
    theirs = {"id": 1, "url": "u", "likes_7d": 9, "likes": 2, "fans": 3, "mood": "happy", "tags": ["x"]}
    found = check(theirs, post_id="id", image_url="url", likes="likes_7d", followers="fans").posts
    assert found.to_pylist()[0] | {"likes": 9, "input_likes": 2, "mood": "happy", "tags": ["x"]} == found.to_pylist()[0]
    assert found.schema.names == [*POSTS.names, "input_likes", "mood", "tags"]


def test_rejected_rows_keep_raw_lines_and_clashing_columns() -> None:
    found = check(
        row(reason="own", raw=1), row(post_id=None, reason="own", raw=2), lines=[("x,y", "wrong_number_of_fields")]
    )
    assert found.rejected.schema.names == [
        "post_id",
        "image_url",
        "likes",
        "followers",
        "input_reason",
        "input_raw",
        "raw",
        "reason",
    ]
    assert set(found.rejected.schema.types) == {pa.string()}
    assert found.rejected["reason"].to_pylist() == ["missing_post_id", "wrong_number_of_fields"]
    assert found.rejected["raw"].to_pylist() == [None, "x,y"]
    assert found.rejected["input_raw"].to_pylist() == ["2", None]


@pytest.mark.parametrize("name", ["post_id", "image_url", "likes", "followers"])
def test_missing_required_column_raises_error(name: str) -> None:
    rows = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(InputError) as error:
        check(rows)
    assert f"posts.csv: has no column '{name}' (it has {', '.join(rows)});" in str(error.value)
    assert f"--columns.{name} NAME" in str(error.value)


def test_missing_named_column_raises_error() -> None:
    with pytest.raises(
        InputError, match=r"has no column 'text' \(it has post_id.*; set --columns.caption to one of them$"
    ):
        check(GOOD, caption="text")


def test_file_without_good_row_raises_error() -> None:
    with pytest.raises(InputError, match=r"posts.csv: no row can be used: 2 likes_negative, 1 missing_post_id"):
        check(row(likes=-1), row(likes=-1), row(post_id=None))
    with pytest.raises(InputError, match=r"no row can be used: 1 not_a_json_object"):
        check_posts(InputRows(pa.table({}), [("x", "not_a_json_object")]), ColumnOptions(), [], "posts.jsonl")


def test_likes_and_followers_may_be_missing_for_given_labels() -> None:
    found = check({"post_id": "a", "image_url": "u", "kind": "ant"}, optional=["likes", "followers"])
    assert found.posts.to_pylist()[0] | {"likes": 0, "followers": 0, "kind": "ant"} == found.posts.to_pylist()[0]
    assert found.missing_columns == ["likes", "followers"]
    assert "no likes and no followers" in found.notes[0]


VALUES = st.sampled_from(["1", "0", "-1", "1.5", "", None, "x", "2e3"])
SOME_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "post_id": st.sampled_from(["a", "b", "c", "", None]),
            "image_url": st.sampled_from(["u", "", None]),
            "likes": VALUES,
            "followers": VALUES,
            "deleted": st.sampled_from(["true", "false", None, "?"]),
        }
    ),
    max_size=12,
)


@given(SOME_ROWS)
def test_each_row_is_accepted_or_rejected_once(rows: list[dict[str, Any]]) -> None:
    rows = [*rows, {**GOOD, "post_id": "sure", "likes": "1", "followers": "2", "deleted": None}]
    found = check(*rows)
    assert len(found.posts) + len(found.rejected) == len(rows) == found.n_rows
    ids = found.posts["post_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert sum(found.reasons.values()) == len(found.rejected)
    assert all(found.rejected["reason"].to_pylist())
    assert min(found.posts["likes"].to_pylist()) >= 0
    found.posts.validate(full=True)
    assert all(found.posts[field.name].null_count == 0 for field in POSTS if not field.nullable)


def config_for(root: Path, posts: str, **sections: Any) -> Config:
    return load_config(root=str(root), posts=posts, **sections)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_all_file_formats_give_same_posts(tmp_path: Path, ending: str) -> None:
    rows = [row(post_id=f"p{i}", likes=i, caption="#x" * i, kind="k", weight=i / 2) for i in range(5)]
    rows.append(row(post_id="p0"))
    rows[-1] |= {"caption": "", "kind": "k", "weight": 1.0}
    config = config_for(tmp_path / "root", write(tmp_path / f"posts.{ending}", rows))
    record = ingest_posts(config)
    storage = config.open_storage()
    assert (record.rows_in, record.rows_out, record.dropped) == (6, 5, {"duplicate_post_id": 1})
    posts = tables.read_table(storage, "posts")
    assert posts["likes"].to_pylist() == [0, 1, 2, 3, 4]
    assert posts["n_hashtags"].to_pylist() == [0, 1, 2, 3, 4]
    assert posts["weight"].to_pylist() == [0.0, 0.5, 1.0, 1.5, 2.0]
    rejected = tables.get_record(storage, "posts_rejected")
    assert (rejected.rows_in, rejected.rows_out, rejected.facts["of"]) == (1, 1, 6)
    assert pd.read_parquet(tmp_path / "root" / "posts")["kind"].tolist() == ["k"] * 5


def test_rejected_table_exists_even_if_empty(tmp_path: Path) -> None:
    config = config_for(tmp_path / "root", write(tmp_path / "posts.csv", [GOOD]))
    ingest_posts(config)
    rejected = tables.read_table(config.open_storage(), "posts_rejected")
    assert rejected.num_rows == 0
    assert "reason" in rejected.schema.names


def test_large_input_is_split_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS_A_FILE", 2)
    config = config_for(tmp_path / "root", write(tmp_path / "posts.csv", [row(post_id=f"p{i}") for i in range(5)]))
    assert [file.rows for file in ingest_posts(config).files] == [2, 2, 1]
    assert tables.read_table(config.open_storage(), "posts")["post_id"].to_pylist() == [f"p{i}" for i in range(5)]


def test_rerun_does_nothing_or_refuses_changed_file(tmp_path: Path) -> None:
    file = tmp_path / "posts.csv"
    config = config_for(tmp_path / "root", write(file, [GOOD]))
    first = ingest_posts(config)
    assert ingest_posts(config) == first
    write(file, [row(post_id="b"), row(post_id="c")])
    with pytest.raises(StageError, match="input posts has changed"):
        ingest_posts(config)
    with pytest.raises(StageError, match="limit was None, is 1"):
        ingest_posts(config_for(tmp_path / "root", write(file, [GOOD]), limit=1))
    write(file, [row(post_id="b")])
    assert ingest_posts(config.model_copy(update={"overwrite": True})).rows_out == 1
    assert tables.read_table(config.open_storage(), "posts")["post_id"].to_pylist() == ["b"]


def test_missing_second_table_is_completed(tmp_path: Path) -> None:
    config = config_for(tmp_path / "root", write(tmp_path / "posts.csv", [GOOD, row(likes=-1)]))
    first = ingest_posts(config)
    config.open_storage().delete_directory("posts_rejected")
    assert ingest_posts(config) == first
    assert tables.get_record(config.open_storage(), "posts_rejected").rows_out == 1


def test_posts_are_reused_after_fetch_false(tmp_path: Path) -> None:
    file = write(tmp_path / "posts.csv", [GOOD])
    first = ingest_posts(config_for(tmp_path / "root", file, ingest={"fetch": False}))
    assert ingest_posts(config_for(tmp_path / "root", file)) == first


def test_next_scheme_reports_missing_likes(tmp_path: Path) -> None:
    file = write(tmp_path / "posts.csv", [{"post_id": "a", "image_url": "u", "kind": "ant"}])
    ingest_posts(config_for(tmp_path / "root", file, label={"scheme": "column", "column": "kind"}))
    with pytest.raises(InputError, match="has no column 'likes'"):
        ingest_posts(config_for(tmp_path / "root", file))


@pytest.mark.parametrize(
    "text", ["", "post_id,image_url,likes\na,u,1\n", "post_id,image_url,likes,followers\na,u,-1,1\n"]
)
def test_unusable_file_creates_no_root(tmp_path: Path, text: str) -> None:
    (tmp_path / "posts.csv").write_text(text)
    with pytest.raises(InputError):
        ingest_posts(config_for(tmp_path / "root", str(tmp_path / "posts.csv")))
    assert not (tmp_path / "root").exists()


def test_unwritable_root_raises_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = config_for(tmp_path / "file" / "root", write(tmp_path / "posts.csv", [GOOD]))
    with pytest.raises(StageError, match=r"file/root/posts.*: cannot"):
        ingest_posts(config)
