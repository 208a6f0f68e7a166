"""Names (post_ids, user_ids) as numbers: 64-bit hashes of whole columns, and their bytes as sortable 64-bit words.

100 million names do not fit into memory as strings, but as hashes they take 8 bytes each. The hash is not made for
secrecy or checksums. Code that joins by it must check that no two names share one, and use another `salt` if they do.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

UInt64s = npt.NDArray[np.uint64]

_WORD = 8
_FACTORS = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
_GOLDEN = 0x9E3779B97F4A7C15
_ALL = 2**64 - 1


def hash_strings(names: pa.ChunkedArray, salt: int = 0) -> UInt64s:
    """A 64-bit hash of each string, uint64 (n,), and 0 for null. Equal strings have equal hashes in any chunks."""
    if pa.types.is_null(names.type):
        return np.zeros(len(names), np.uint64)
    parts = [_hashes(chunk, salt) for chunk in names.chunks]
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def find_positions(known: UInt64s, names: UInt64s) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The place of each name (n,) in `known`, which is sorted, and whether it is there (if not, ignore the place).

    Names are looked up in sorted order, because random access to so much memory takes five times as long.
    """
    place = np.zeros(len(names), np.int64)
    if not len(known):
        return place, np.zeros(len(names), bool)
    order = np.argsort(names)
    place[order] = np.minimum(np.searchsorted(known, names[order]), len(known) - 1)
    return place, known[place] == names


def string_words(names: pa.ChunkedArray, number: int) -> UInt64s:
    """Bytes 8·`number` to 8·`number` + 7 of each string as one big-endian number, uint64 (n,), padded with zeros.

    The words of two strings, compared one after the other, give the order of the strings by code point.
    """
    parts = []
    for chunk in names.chunks:
        starts, lengths, window = _bytes(chunk)
        parts.append(_word(starts, lengths, window, number).byteswap())
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)


def _bytes(names: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], UInt64s]:
    """The start of each string, its length in bytes, and the 8 bytes from each position on (little-endian numbers)."""
    kind = np.int64 if pa.types.is_large_string(names.type) else np.int32
    _, offsets_buffer, data = names.buffers()
    offsets = np.frombuffer(offsets_buffer, kind)[names.offset : names.offset + len(names) + 1].astype(np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    padded = np.zeros(last - first + _WORD, np.uint8)
    if last > first:
        padded[: last - first] = np.frombuffer(data, np.uint8)[first:last]
    window = np.ndarray((last - first + 1,), np.dtype("<u8"), buffer=padded.data, strides=(1,))
    return offsets[:-1] - first, np.diff(offsets), window


def _word(starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], window: UInt64s, number: int) -> UInt64s:
    left = np.clip(lengths - _WORD * number, 0, _WORD)
    # A start beyond the data belongs to a string that has ended. The mask then keeps no byte.
    place = np.minimum(starts + _WORD * number, len(window) - 1)
    masks = np.array([(1 << 8 * k) - 1 for k in range(_WORD + 1)], np.uint64)
    return window[place] & masks[left]


def _hashes(names: pa.Array, salt: int) -> UInt64s:
    starts, lengths, window = _bytes(names)
    state = lengths.astype(np.uint64) * np.uint64(_GOLDEN) + _salted(salt)
    for number in range(-(-int(lengths.max(initial=0)) // _WORD)):
        # Shorter names are complete. Mixing zeros into them would make a hash depend on the other names of its chunk.
        more = lengths > _WORD * number
        if more.all():
            state = mix_bits(state ^ _word(starts, lengths, window, number))
        else:
            state[more] = mix_bits(state[more] ^ _word(starts[more], lengths[more], window, number))
    state = mix_bits(state)
    if names.null_count:
        state[np.asarray(names.is_null())] = 0
    return state


def mix_bits(state: UInt64s) -> UInt64s:
    """Maps numbers one to one to numbers whose bits each depend on all bits (MurmurHash3's finaliser, Appleby)."""
    with np.errstate(over="ignore"):
        for factor in _FACTORS:
            state = (state ^ (state >> np.uint64(33))) * factor
        return np.asarray(state ^ (state >> np.uint64(33)))


def _salted(salt: int) -> np.uint64:
    return np.uint64(mix_bits(np.array([(salt + 1) * _GOLDEN & _ALL], np.uint64))[0])
