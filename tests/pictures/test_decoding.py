"""Pictures that cannot be decoded, or crash the decoder, do not affect other pictures."""

from __future__ import annotations

import functools
import struct
import time
import zlib

import numpy as np
import psutil
import pytest

from raypipe.errors import StageError
from raypipe.pictures.decoding import DecoderPool, Undecodable, decode_or_reason, decode_square, picture_decoder
from tests.deadly import deadly
from tests.ingest.conftest import picture
from tests.ingest.files import FILES, png_chunk
from tests.ingest.natives import act

__all__ = ["deadly"]

SIDE = 32


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "raypipe.processes.child" in child.cmdline()]


@pytest.fixture(autouse=True)
def _none_is_left() -> object:
    yield
    assert children() == []


def bomb(side: int) -> bytes:
    """A small PNG whose header claims `side` × `side` pixels."""
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize("isolated", [False, True])
def test_reasons_are_equal_with_and_without_child_process(isolated: bool) -> None:
    given = [b"a", b"value", b"runtime", b"memory", b"input", b"b"]
    with picture_decoder(act, isolated=isolated) as decode:
        found = [decode(data) for data in given]
    assert [one.reason if isinstance(one, Undecodable) else one for one in found] == [
        b"a",
        "picture cannot be decoded: ValueError: odd value",
        "picture cannot be decoded: RuntimeError: RuntimeError",
        "picture cannot be decoded: MemoryError: MemoryError",
        "no picture",
        b"b",
    ]


def test_pixels_are_equal_in_child_process() -> None:
    with picture_decoder(functools.partial(decode_square, side=SIDE)) as decode:
        for data in FILES.values():
            np.testing.assert_array_equal(decode(data), decode_square(data, SIDE))


@pytest.mark.parametrize("data", [b"", b"no picture", picture()[:200], bomb(20_000)])
def test_undecodable_bytes_get_a_reason(data: bytes) -> None:
    found = decode_or_reason(data, functools.partial(decode_square, side=SIDE))
    assert isinstance(found, Undecodable)
    assert found.reason.startswith("picture cannot be decoded: ")
    assert "\n" not in found.reason


def test_picture_crashing_its_decoder_affects_no_other(deadly: bytes) -> None:
    with picture_decoder(functools.partial(decode_square, side=SIDE)) as decode:
        found = [decode(data) for data in (picture(), deadly, picture(seed=1))]
    assert found[1] == Undecodable("picture cannot be decoded: the decoder's process ended: SIGSEGV")
    np.testing.assert_array_equal(found[2], decode_square(picture(seed=1), SIDE))


def test_results_keep_order_despite_crashes() -> None:
    fates: list[bytes | Undecodable] = [b"%d" % i for i in range(60)]
    expected: list[object] = list(fates)
    for i in (7, 8, 30):
        fates[i] = b"segfault"
        expected[i] = Undecodable("picture cannot be decoded: the decoder's process ended: SIGSEGV")
    fates[9] = expected[9] = Undecodable("there is no such file")
    with DecoderPool(act, 2) as decoders:
        assert list(decoders(range(60), lambda i: fates[i])) == expected
        assert list(decoders([], lambda i: fates[i])) == []
        assert list(decoders([3], lambda i: fates[i])) == [b"3"]
        assert 1 <= len(children()) <= 2


def test_no_child_starts_without_work() -> None:
    with DecoderPool(act, 2) as decoders:
        assert list(decoders(["x"], lambda _: Undecodable("gone"))) == [Undecodable("gone")]
        assert children() == []


def test_read_error_ends_the_stage() -> None:
    def read(item: int) -> bytes:
        if item == 5:
            raise StageError("the store does not answer")
        return b"x"

    with pytest.raises(StageError, match="does not answer"), DecoderPool(act, 2) as decoders:
        list(decoders(range(40), read))


def test_interruption_does_not_wait_for_decoders() -> None:
    # Both children would sleep for minutes. On failure the test's time limit ends it.
    with pytest.raises(KeyboardInterrupt), DecoderPool(act, 2) as decoders:
        results = decoders([b"a", b"hang", b"hang", b"b"], lambda data: data)
        assert next(results) == b"a"
        while len(children()) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt


def test_child_process_does_not_import_slow_modules() -> None:
    with picture_decoder(act) as decode:
        modules = decode(b"modules")
    assert isinstance(modules, list)
    assert not {"torch", "ray", "pandas", "dlib"} & set(modules)
