"""Functions for child processes in tests of `child`, `pool` and `decoding`. This module imports nothing slow."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from raypipe.errors import InputError


def how(item: Any, ending: str) -> Any:
    """The result for an item that ended the child."""
    return (item, ending)


def work(item: Any) -> Any:
    """Do what the item says. Otherwise return it with this process's id."""
    match item:
        case "segfault":
            ctypes.string_at(0)
        case "signal", number:
            os.kill(os.getpid(), number)
        case "exit", code:
            os._exit(code)
        case "hang":
            time.sleep(600)
        case "leave":
            sys.exit(4)
        case "close":
            os.closerange(3, 100)
            time.sleep(600)
        case "print":
            os.write(1, b"from native code\n")
            print("from Python")
            return sys.stdin.read(), os.read(0, 9)
        case "large", size:
            return b"x" * size
        case "raise", error:
            raise error
        case "own":
            raise OwnError(1, b=2)
        case "unpicklable":
            return threading.Lock()
        case "linger", path:
            Path(path).write_text(str(os.getpid()))
            time.sleep(600)
    return item, os.getpid()


class OwnError(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, a: int, *, b: int) -> None:
        super().__init__(f"{a} and {b}")


def in_pool(item: Any, attempt: int) -> Any:
    """Do what `work` does, at the first attempt only or at each attempt, as the item says."""
    match item:
        case "once", what:
            return work(what if attempt == 0 else attempt)
        case "modules", names:
            for name in names:
                importlib.import_module(name)
            return sorted(sys.modules)
    return work(item)


def act(data: bytes) -> object:
    """Do what the bytes say."""
    match data:
        case b"segfault":
            ctypes.string_at(0)
        case b"hang":
            time.sleep(600)
        case b"value":
            raise ValueError("odd\nvalue")
        case b"runtime":
            raise RuntimeError
        case b"memory":
            raise MemoryError
        case b"input":
            raise InputError("no picture")
        case b"modules":
            return sorted(sys.modules)
    return data


def slow(item: int, seconds: float) -> int:
    """Return the item after `seconds`."""
    time.sleep(seconds)
    return item


class Elsewhere:
    """Pickled as an object of a missing module."""

    def __call__(self, item: int) -> int:
        return item

    def __reduce__(self) -> Any:
        return __import__, ("nowhere",)
