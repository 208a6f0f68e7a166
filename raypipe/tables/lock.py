"""Locks a table for one run at a time by its ``_claim.json``. If two commands begin together, one is refused."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raypipe.errors import StageError
from raypipe.storage import Storage, conditional
from raypipe.storage.conditional import Version
from raypipe.tables.record import Claim, RunRecord, differences, parse_model, revision_options, to_json_bytes

CLAIM_FILE = "_claim.json"


@dataclass(frozen=True)
class ClaimVersion:
    """The claim found in a table, if any, and in an object store the version of its file."""

    claim: Claim | None = None
    version: Version | None = None


@contextlib.contextmanager
def locked(storage: Storage, table: str) -> Iterator[None]:
    """Hold a lock on a local table's directory during the body. Afterwards the directory is deleted if it is empty.

    Object stores have no locks: there `put` refuses the second command. Some network file systems have no locks either.
    """
    if not storage.is_local:
        yield
        return
    folder = Path(storage.path(table))
    with storage.errors("write", f"{table}/{CLAIM_FILE}"):
        handle = _open_locked(folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
        os.close(handle)


def _open_locked(folder: Path) -> int:
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            # The process that held the lock has deleted the empty directory.
            continue
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def read(storage: Storage, table: str) -> ClaimVersion:
    """The claim of a table. Raises StageError if the file is not a valid claim, or if its process still runs."""
    path = f"{table}/{CLAIM_FILE}"
    if conditional.is_available(storage):
        found = conditional.read_version(storage, path)
        data, version = found or (None, None)
    else:
        data, version = storage.read(path) if storage.exists(path) else None, None
    if data is None:
        return ClaimVersion()
    claim = parse_model(storage, path, data, Claim)
    if claim.is_held_by_other():
        raise StageError(
            f"{storage.uri(table)}: process {claim.pid} (`raypipe {claim.command}`) is writing to it; wait or end it"
        )
    return ClaimVersion(claim, version)


def put(storage: Storage, table: str, claim: Claim, claim_version: ClaimVersion) -> None:
    """Write a claim in place of the one in `claim_version`. Call it inside `locked`.

    It raises StageError if another command has claimed the table since. A store without conditional writes keeps the
    later of the two claims.
    """
    path, data = f"{table}/{CLAIM_FILE}", to_json_bytes(claim)
    if not conditional.is_available(storage):
        storage.write(path, data)
    elif not conditional.replace_version(storage, path, data, claim_version.version):
        raise StageError(
            f"{storage.uri(table)}: another command began to write it at the same time; wait for it, then start again"
        )


def refuse_different_run(storage: Storage, table: str, found: Claim | RunRecord, new: Claim) -> None:
    """Raise StageError, which names the differences, if the run that was found is not the wanted one."""
    lines = differences(found, new.config, new.inputs, new.revision)
    if not lines:
        return
    where, what = storage.uri(table), "; ".join(lines)
    if isinstance(found, Claim) and found.revision and not new.revision:
        options = revision_options(found.revision)
        raise StageError(
            f"{where}: has an unfinished run that redoes a part ({options}); finish it with "
            f"`raypipe {shlex.quote(found.command)} {options}`, or redo the whole table with --overwrite"
        )
    state = "has the result" if isinstance(found, RunRecord) else "has an unfinished run"
    raise StageError(
        f"{where}: {state} of another configuration or input: {what}; "
        "use --overwrite, another --root, or the same options"
    )
