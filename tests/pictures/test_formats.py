"""Formats and ends of files, read without decoding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.pictures.formats import _OTHERS, FILE_ENDINGS, FORMATS, detect_format, is_cut_off, png_chunks
from tests.ingest.files import FILES, KINDS, png_chunk, with_segment


def test_each_format_has_file_name_endings() -> None:
    assert set(FILE_ENDINGS) == {*FORMATS, *_OTHERS.values()}
    endings = [ending for found in FILE_ENDINGS.values() for ending in found]
    assert len(set(endings)) == len(endings)


@pytest.mark.parametrize("name", FILES)
def test_format_is_recognised_from_bytes(name: str) -> None:
    assert detect_format(FILES[name]) == KINDS[name]
    assert KINDS[name] in FORMATS


@pytest.mark.parametrize(
    ("major", "compatible", "kind"),
    [
        (b"avif", [b"mif1", b"miaf"], "AVIF"),
        (b"mif1", [b"mif1", b"avif"], "AVIF"),
        (b"mif1", [b"mif1", b"heic"], "HEIC"),
        (b"heic", [b"mif1", b"avif"], "HEIC"),
        (b"mif1", [], "HEIC"),
        (b"isom", [b"iso2", b"avc1", b"mp41"], None),
        (b"qt  ", [b"qt  "], None),
    ],
)
def test_ftyp_brands_select_the_format(major: bytes, compatible: list[bytes], kind: str | None) -> None:
    contents = b"ftyp" + major + b"\x00\x00\x00\x00" + b"".join(compatible)
    assert detect_format((len(contents) + 4).to_bytes(4, "big") + contents + b"avif") == kind


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@settings(max_examples=100)
def test_any_missing_byte_makes_file_incomplete(name: str, data: st.DataObject) -> None:
    whole, kind = FILES[name], KINDS[name]
    assert not is_cut_off(whole, kind)
    assert is_cut_off(whole[: data.draw(st.integers(16, len(whole) - 1))], kind)
    assert all(is_cut_off(whole[:-n], kind) for n in range(1, 40))


@pytest.mark.parametrize("junk", [b"\x00" * 3, b"\x00" * 10_000, b"\r\n</html>", b"\xff\xd8\xff\xe0\x00\x10JFIF"])
@pytest.mark.parametrize("name", FILES)
def test_bytes_after_the_end_are_ignored(name: str, junk: bytes) -> None:
    # A box container has no end marker. Following bytes that are not zero are read as another box.
    boxes = KINDS[name] in ("AVIF", "HEIC")
    assert is_cut_off(FILES[name] + junk, KINDS[name]) == (boxes and any(junk))


@pytest.mark.parametrize("name", ["avif", "animated avif", "heic"])
def test_cut_between_boxes_is_detected(name: str) -> None:
    data = FILES[name]
    assert is_cut_off(data[: data.index(b"mdat") - 4], KINDS[name])


def test_gif_local_colour_table_is_skipped() -> None:
    data = FILES["gif"]
    # Read as blocks, these bytes would end the file immediately.
    colours = b"\x00\x00;" * 256
    block = data.index(b"\x2c\x00\x00\x00\x00", 13 + 768)
    assert data[10] & 0x87 == 0x87
    local = data[:10] + b"\x00" + data[11:13] + data[13 + 768 : block + 9] + b"\x87" + colours + data[block + 10 :]
    assert not is_cut_off(local, "GIF")
    assert all(is_cut_off(local[:n], "GIF") for n in range(13, len(local)))


def test_end_marker_inside_metadata_is_ignored() -> None:
    data = FILES["thumbnail"]
    end = data.index(b"\xff\xd9") + 2
    assert end < len(data)
    assert all(is_cut_off(data[:cut] + zeros, "JPEG") for cut in (end, end + 1, -2) for zeros in (b"", b"\x00" * 99))


def test_fill_bytes_between_jpeg_segments_are_skipped() -> None:
    plain = FILES["jpeg"]
    for between in (b"\xff" * 5, b"\x00" * 7, b"\xff\x00", b"\xff\x01"):
        data = plain[:2] + between + plain[2:]
        assert not is_cut_off(data, "JPEG")
        assert is_cut_off(data[:-1], "JPEG")
    assert is_cut_off(b"\xff\xd8\xff" + b"\x00" * 500, "JPEG")
    assert is_cut_off(with_segment(plain, 0xFE, b"\xff\xd9")[:400], "JPEG")


def test_png_chunks_are_read_up_to_the_end() -> None:
    data = FILES["png"]
    more = data[:-12] + png_chunk(b"eXIf", b"MM\x00*") + data[-12:] + png_chunk(b"eXIf", b"behind the end")
    assert [chunk for chunk in png_chunks(more) if chunk[0] == b"eXIf"] == [(b"eXIf", b"MM\x00*")]
    behind = more.index(b"eXIf") + 4 + 4
    assert all(name != b"eXIf" for cut in range(4) for name, _ in png_chunks(more[: behind + cut]))
    assert next(png_chunks(data)) == (b"IHDR", data[16:29])
    assert list(png_chunks(data[:20])) == []


@given(kind=st.sampled_from(FORMATS), data=st.binary(max_size=200))
def test_any_bytes_are_checked_without_error(kind: str, data: bytes) -> None:
    head = next(FILES[name][:12] for name in FILES if KINDS[name] == kind)
    assert is_cut_off(head + data, kind) in (True, False)
