"""Checks of this machine: processors, memory, file descriptors, disk, free ports."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil

from raypipe.config import Config
from raypipe.doctor.check_result import CheckResult
from raypipe.errors import StageError, one_line
from raypipe.processes.pool import cpus
from raypipe.processes.ports import usable_port
from raypipe.storage import Storage
from raypipe.storage.scratch import Scratch

_MIN_MEMORY_GB = 4.0
_ENOUGH_DISK_GB = 20.0
_LEAST_DISK_GB = 1.0
_RAY_DISK_LIMIT = 0.95
_ENOUGH_FILES = 4096


def check_processors() -> CheckResult:
    """CPUs and GPUs, and whether each has native bfloat16, as `train.dtype auto` decides it."""
    import torch

    from raypipe.train.loop.choices import compute_dtype

    seen = [f"{cpus()} CPU cores ({compute_dtype('auto', 'cpu')})"]
    for index in range(torch.cuda.device_count()):
        name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
        seen.append(f"{name}, {memory / 2**30:.0f} GiB ({compute_dtype('auto', f'cuda:{index}')})")
    if len(seen) == 1:
        return CheckResult(
            "processors",
            "warn",
            f"{seen[0]}, no GPU",
            "full-size training needs GPUs; use --train.image_size 64 on CPUs",
        )
    return CheckResult("processors", "ok", "; ".join(seen))


def check_memory() -> CheckResult:
    """Free memory, and the shared memory that Ray's object store needs."""
    memory = psutil.virtual_memory()
    seen = f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"
    if memory.available < _MIN_MEMORY_GB * 2**30:
        return CheckResult("memory", "warn", seen, f"free memory: a stage on Ray needs about {_MIN_MEMORY_GB:.0f} GiB")
    shared = Path("/dev/shm")
    if shared.is_dir() and (free := shutil.disk_usage(shared).free) < 0.3 * memory.total:
        advice = "Ray keeps objects in /dev/shm: set a container's --shm-size to 30 % of its memory"
        return CheckResult("memory", "warn", f"{seen}; only {free / 2**30:.1f} GiB in /dev/shm", advice)
    return CheckResult("memory", "ok", seen)


def check_open_files() -> CheckResult:
    """The limit on open files. Fetching and Ray both need many."""
    if sys.platform == "win32":
        return CheckResult("open files", "ok", "no limit on this system")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    seen = f"{soft:,} (hard limit {'none' if hard == resource.RLIM_INFINITY else f'{hard:,}'})"
    if soft != resource.RLIM_INFINITY and soft < _ENOUGH_FILES:
        return CheckResult("open files", "warn", seen, "raise it in the shell that starts raypipe: ulimit -n 65536")
    return CheckResult("open files", "ok", seen)


def check_disk(storage: Storage | None) -> list[CheckResult]:
    """Free space for the tables, if they are on a disk of this machine, and in Ray's temporary directory."""
    places = [("disk of Ray", Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()), True)]
    if storage is not None and storage.is_local:
        places.insert(0, ("disk of root", _nearest(Path(storage.path())), False))
    return [_check_free(name, folder, for_ray=for_ray) for name, folder, for_ray in places]


def _nearest(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _check_free(name: str, folder: Path, *, for_ray: bool) -> CheckResult:
    usage = shutil.disk_usage(folder)
    # The total size of /proc and similar file systems is 0.
    used = usage.used / usage.total if usage.total else 1.0
    seen = f"{folder}: {usage.free / 1e9:,.1f} GB free, {used:.0%} used"
    if for_ray and used > _RAY_DISK_LIMIT:
        advice = "Ray stores no objects on a disk that is 95 % full: free space, or set RAY_TMPDIR to another disk"
        return CheckResult(name, "fail", seen, advice)
    if usage.free < _LEAST_DISK_GB * 1e9:
        return CheckResult(name, "fail", seen, "free space, or choose another disk")
    if usage.free < _ENOUGH_DISK_GB * 1e9:
        advice = "a full-size checkpoint has 0.5 GB and a trial keeps two; --train.save winner keeps one in total"
        return CheckResult(name, "warn", seen, advice)
    return CheckResult(name, "ok", seen)


def check_scratch(scratch: Scratch) -> CheckResult:
    """The folder of files that can be made again: its path, sets and bytes, its limit, and free space on its disk."""
    try:
        seen = scratch.usage()
    except StageError as error:
        return CheckResult("scratch", "fail", one_line(error), "delete it, or choose another --storage.scratch DIR")
    text = (
        f"{seen.folder}: {seen.n_bytes / 1e9:,.1f} of {scratch.max_gb:,.1f} GB in {seen.sets} "
        f"set{'s' if seen.sets != 1 else ''}, {seen.free / 1e9:,.1f} GB free"
    )
    if seen.free < _LEAST_DISK_GB * 1e9:
        return CheckResult("scratch", "warn", text, "free space, or choose another disk: --storage.scratch DIR")
    return CheckResult("scratch", "ok", text)


def check_ports(config: Config) -> list[CheckResult]:
    """Whether the loopback ports of the world's server, the board, the study and Ray's dashboard are free."""
    wanted = {"world.port": config.world.port, "board.port": config.board.port, "study.port": config.study.port}
    if config.ray.dashboard is not False and config.ray.dashboard_port is not None:
        wanted["ray.dashboard_port"] = config.ray.dashboard_port
    return [_check_port(name, port) for name, port in wanted.items()]


def _check_port(name: str, port: int) -> CheckResult:
    if port == 0:
        return CheckResult(f"port {name}", "ok", "any free port")
    try:
        usable_port(port)
    except OSError as error:
        return CheckResult(f"port {name}", "warn", f"{port}: {error.strerror}", f"choose another: --{name} PORT")
    return CheckResult(f"port {name}", "ok", f"{port} is free")
