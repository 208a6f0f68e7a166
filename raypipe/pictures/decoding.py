"""Decodes pictures, each into a result or the reason of the failure, also if a file crashes the decoder.

A decoder is native code, and some files end its process by a signal that `except` cannot catch. In a child process,
such a crash loses that file only. Children import this module and the decoding function, so both must import fast.
"""

from __future__ import annotations

import contextlib
import queue
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raypipe.errors import InputError, one_line
from raypipe.pictures.examine import upright_rgb
from raypipe.processes.child import ChildWorker

Item = TypeVar("Item")
Result = TypeVar("Result")

_READERS = 16
_BROKEN = "picture cannot be decoded"


@dataclass(frozen=True)
class Undecodable:
    """The one-line reason why a picture has no result, in place of the result."""

    reason: str


def decode_square(data: bytes, side: int) -> NDArray[np.uint8]:
    """The whole upright picture resized to `side` × `side` pixels without cropping: uint8 [3, side, side], RGB.

    Bilinear with antialiasing. Raises InputError if the bytes are not a whole picture.
    """
    # If the decoded size is at least twice the target, only the resize determines the result.
    resized = upright_rgb(data, 2 * side).resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def decode_or_reason(data: bytes, function: Callable[[bytes], Result]) -> Result | Undecodable:
    """The result of `function` for a picture's bytes, in this process. An error becomes the reason of `Undecodable`."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return function(data)
    except InputError as error:
        return Undecodable(one_line(error))
    except Exception as error:  # bytes from strangers can raise any error in a decoder
        return Undecodable(f"{_BROKEN}: {type(error).__name__}: {one_line(error)}")


@contextlib.contextmanager
def picture_decoder(
    function: Callable[[bytes], Result], *, isolated: bool = True
) -> Iterator[Callable[[bytes], Result | Undecodable]]:
    """`decode_or_reason` for one picture. With `isolated`, it runs in a child process that ends with the body.

    The child starts with the first picture, which takes about half a second. Each picture takes about 10% longer
    than in this process. `function` and its results must be picklable. Raises StageError if no child starts.
    """
    decode: Callable[[bytes], Result | Undecodable] = partial(decode_or_reason, function=function)
    if not isolated:
        yield decode
        return
    with ChildWorker(decode, _result_after_crash) as child:
        yield lambda data: child([data])[0]


def _result_after_crash(_: bytes, exit_reason: str) -> Any:
    return Undecodable(f"{_BROKEN}: the decoder's process ended: {exit_reason}")


class DecoderPool(Generic[Result]):
    """Applies `decode_or_reason` to many pictures at once, in `workers` child processes.

    Threads of this process read the pictures, so that an object store answers several requests at a time. A child
    starts with its first picture. All children end with the body of the ``with``.
    """

    def __init__(self, function: Callable[[bytes], Result], workers: int) -> None:
        decode: Callable[[bytes], Result | Undecodable] = partial(decode_or_reason, function=function)
        self._children = [ChildWorker(decode, _result_after_crash) for _ in range(workers)]
        self._free: queue.SimpleQueue[ChildWorker[bytes, Result | Undecodable]] = queue.SimpleQueue()
        for child in self._children:
            self._free.put(child)
        # A child ends with the thread that started it. These threads live as long as the children are needed.
        self._threads = ThreadPoolExecutor(max(_READERS, workers), "decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            # Their results are not needed any more. After `stop`, a child that is still starting is not restarted.
            for child in self._children:
                child.stop()
        self._threads.shutdown(wait=True)
        for child in self._children:
            child.close()

    def __call__(
        self, items: Sequence[Item], read: Callable[[Item], bytes | Undecodable]
    ) -> Iterator[Result | Undecodable]:
        """The result of each item, in order. `read` returns the bytes of an item, or the reason why there are none.

        Errors of `read` are raised here.
        """
        return self._threads.map(partial(self._decode_item, read=read), items)

    def _decode_item(self, item: Item, read: Callable[[Item], bytes | Undecodable]) -> Result | Undecodable:
        data = read(item)
        if isinstance(data, Undecodable):
            return data
        child = self._free.get()
        try:
            return child([data])[0]
        finally:
            self._free.put(child)
