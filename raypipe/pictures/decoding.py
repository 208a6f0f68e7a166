"""Pictures decoded, each into a result or a reason why not, whatever its bytes do to the decoder.

A decoder is native code, and some file ends its process by a signal that no `except` meets. Apart, in a child process,
such a file costs itself alone. Children import this module and what decodes, so both must be quick to import.
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
from raypipe.processes.child import Isolated

Item = TypeVar("Item")
Result = TypeVar("Result")

_READERS = 16
_BROKEN = "picture cannot be decoded"


@dataclass(frozen=True)
class Undecodable:
    """In place of a picture's result: why there is none, in one line."""

    reason: str


def square(data: bytes, side: int) -> NDArray[np.uint8]:
    """The whole upright picture squeezed to `side` × `side` pixels: uint8 [3, side, side], RGB.

    Bilinear with antialiasing. Raises InputError if the bytes are no whole picture.
    """
    # At twice the target or more the resize decides how it looks.
    resized = upright_rgb(data, 2 * side).resize((side, side), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))


def attempt(data: bytes, function: Callable[[bytes], Result]) -> Result | Undecodable:
    """`function` of a picture's bytes in this process. Whatever it raises is the reason."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return function(data)
    except InputError as error:
        return Undecodable(one_line(error))
    except Exception as error:  # a decoder meets whatever strangers send
        return Undecodable(f"{_BROKEN}: {type(error).__name__}: {one_line(error)}")


@contextlib.contextmanager
def decoding(
    function: Callable[[bytes], Result], *, apart: bool = True
) -> Iterator[Callable[[bytes], Result | Undecodable]]:
    """`attempt` of one picture after the other, with `apart` in a child process that lives as long as the body.

    The child starts with the first picture and takes about half a second to; each picture takes about a tenth longer
    than in this process. `function` and its results must be picklable. Raises StageError if no child starts.
    """
    one: Callable[[bytes], Result | Undecodable] = partial(attempt, function=function)
    if not apart:
        yield one
        return
    with Isolated(one, _died) as child:
        yield lambda data: child([data])[0]


def _died(_: bytes, how: str) -> Any:
    return Undecodable(f"{_BROKEN}: whatever decodes it ended natively: {how}")


class Decoders(Generic[Result]):
    """`attempt` of many pictures at once, in as many child processes as `workers`.

    Pictures are read by threads of this process, so that an object store answers several requests at a time. Children
    start when there is a picture for them, and end with the body of the ``with``.
    """

    def __init__(self, function: Callable[[bytes], Result], workers: int) -> None:
        one: Callable[[bytes], Result | Undecodable] = partial(attempt, function=function)
        self._children = [Isolated(one, _died) for _ in range(workers)]
        self._free: queue.SimpleQueue[Isolated[bytes, Result | Undecodable]] = queue.SimpleQueue()
        for child in self._children:
            self._free.put(child)
        # A child ends with the thread that started it: these live as long as the children are needed.
        self._threads = ThreadPoolExecutor(max(_READERS, workers), "decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            # Nobody waits for what they decode now. A child that is just starting is not started again.
            for child in self._children:
                child.stop()
        self._threads.shutdown(wait=True)
        for child in self._children:
            child.close()

    def __call__(
        self, items: Sequence[Item], read: Callable[[Item], bytes | Undecodable]
    ) -> Iterator[Result | Undecodable]:
        """The result of each item, in order; `read` gives its bytes, or the reason why there are none.

        What `read` raises is raised here.
        """
        return self._threads.map(partial(self._one, read=read), items)

    def _one(self, item: Item, read: Callable[[Item], bytes | Undecodable]) -> Result | Undecodable:
        data = read(item)
        if isinstance(data, Undecodable):
            return data
        child = self._free.get()
        try:
            return child([data])[0]
        finally:
            self._free.put(child)
