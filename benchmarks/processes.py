"""Runs a command and measures all of its processes: wall time, CPU seconds and memory. Linux only.

Ray's daemons leave their parent and its session, and raylet does not wait for its workers. So neither the process tree
nor RUSAGE_CHILDREN covers them all. A control group (v2) does, exactly, but needs root or a delegated group. Without
one, this process becomes the subreaper of what it starts, and reads each process's clock several times a second. CPU
time after the last reading is lost then, so the command looks a little cheaper than it is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_TO_VANISH = 30.0
_SECONDS_BETWEEN_CLOCKS = 0.2
_TICK = os.sysconf("SC_CLK_TCK")
_MEGABYTE_IN_KB = 1024.0


@dataclass(frozen=True)
class Sample:
    """Memory of all processes at one moment, in megabytes (2**20 bytes). `at` is in seconds since the epoch.

    PSS counts a page that n processes share as 1/n in each, so sums over processes are correct. RSS counts it n times.
    `shared` is the part of PSS in shared memory (Ray's object store). `anonymous` is the private part.
    """

    at: float
    pss: float
    rss: float
    anonymous: float
    shared: float
    by_name: dict[str, float]


@dataclass
class Usage:
    """What a command used. `cpu` is `cpu_by_method[method]`, in seconds. `machine_busy` is the CPU seconds of all
    processes of the machine, including the benchmark itself.
    """

    wall: float
    cpu: float
    method: str
    cpu_by_method: dict[str, float]
    cpu_by_name: dict[str, float]
    machine_busy: float
    started_at: float
    left_over: int
    samples: list[Sample] = field(repr=False)

    @property
    def peak_pss(self) -> float:
        """The largest PSS of all samples, in megabytes."""
        return max((sample.pss for sample in self.samples), default=0.0)

    @property
    def peak_rss(self) -> float:
        """The largest RSS of all samples, in megabytes."""
        return max((sample.rss for sample in self.samples), default=0.0)


class CommandFailedError(RuntimeError):
    """A measured command did not exit with code 0. The message contains the end of its output."""


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    env: Mapping[str, str] | None = None,
    every: float = 1.0,
    use_group: bool = True,
) -> Usage:
    """Run `command` until it and its last daemon have ended. Takes a memory sample every `every` seconds.

    Output goes to `log`. If `use_group` is false, no control group is used. Raises CommandFailedError if it fails.
    """
    _be_subreaper(True)
    try:
        return _run(command, cwd, log, env, every, use_group)
    finally:
        _be_subreaper(False)


def _run(
    command: Sequence[str], cwd: Path, log: Path, env: Mapping[str, str] | None, every: float, use_group: bool
) -> Usage:
    group = _Group.make() if use_group else None
    mine = {child.pid for child in psutil.Process().children()}
    observer = _Observer(group, mine)
    children, busy = _children_cpu(), machine_busy()
    started_at, started = time.time(), time.monotonic()
    words = ["/bin/sh", "-c", f'echo $$ > {group.path}/cgroup.procs && exec "$@"', "sh", *command] if group else command
    with log.open("wb") as sink:
        process = subprocess.Popen(words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        observer.client = process.pid
        try:
            _observe_until_end(process, observer, every)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    wall = time.monotonic() - started
    left_over = _wait_for_daemons(observer)
    methods = {"clocks": observer.cpu(), "waited_for": _children_cpu() - children}
    if group:
        methods["control_group"] = group.cpu()
        group.remove()
    method = "control_group" if group else max(methods, key=lambda name: methods[name])
    if process.returncode:
        tail = log.read_bytes()[-3000:].decode(errors="replace")
        raise CommandFailedError(f"exit {process.returncode}: {' '.join(command)}\n{tail}")
    return Usage(
        wall=wall,
        cpu=methods[method],
        method=method,
        cpu_by_method=methods,
        cpu_by_name=observer.cpu_by_name(),
        machine_busy=machine_busy() - busy,
        started_at=started_at,
        left_over=left_over,
        samples=observer.samples,
    )


def cpu_of_tree(pid: int) -> float:
    """CPU seconds so far of a process and its living descendants, to 0.01 s per process."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in (root, *root.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def _observe_until_end(process: subprocess.Popen[bytes], observer: _Observer, every: float) -> None:
    pause = every if observer.group else min(every, _SECONDS_BETWEEN_CLOCKS)
    ended = select.poll()
    descriptor = os.pidfd_open(process.pid)
    ended.register(descriptor, select.POLLIN)
    try:
        next_sample = time.monotonic()
        while True:
            if time.monotonic() >= next_sample:
                observer.sample()
                next_sample = max(next_sample + every, time.monotonic())
            else:
                observer.read_clocks()
            if ended.poll(pause * 1000):
                break
            observer.reap()
        process.wait()
    finally:
        os.close(descriptor)


def _wait_for_daemons(observer: _Observer) -> int:
    """Wait until no process of the command is left. Kills those that stay too long and returns their number."""
    end = time.monotonic() + _SECONDS_TO_VANISH
    nobody = 0
    # Looks twice, because a process that changes its parent during a look is missed.
    while nobody < 2:
        left = observer.members()
        nobody = 0 if left else nobody + 1
        if left and time.monotonic() > end:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.5)
            observer.reap()
            return len(left)
        observer.read_clocks()
        observer.reap()
        time.sleep(0.05)
    observer.reap()
    return 0


class _Group:
    """A new control group (v2). Its basic statistics need no controller."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def make(cls) -> _Group | None:
        own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if not after.startswith("cgroup2 ") or not own:
                continue
            path = Path(before.split()[4] + own[0].rstrip("/")) / f"benchmark-{os.getpid()}"
            try:
                path.mkdir(exist_ok=True)
                os.close(os.open(path / "cgroup.procs", os.O_WRONLY))
                group = cls(path)
                group.cpu()
            except (OSError, KeyError):
                return None
            return group
        return None

    def members(self) -> set[int]:
        return {int(word) for word in (self.path / "cgroup.procs").read_text().split()}

    def cpu(self) -> float:
        stat = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(stat["usage_usec"]) / 1e6

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.rmdir()


class _Observer:
    """Reads CPU times and memory of the command's processes. `excluded` are this process's other children."""

    def __init__(self, group: _Group | None, excluded: set[int]) -> None:
        self.group = group
        self.client = 0
        self.samples: list[Sample] = []
        self._excluded = excluded
        self._clocks: dict[tuple[int, str], float] = {}
        self._by_name: defaultdict[str, float] = defaultdict(float)

    def members(self) -> set[int]:
        """The ids of the command's living processes."""
        if self.group:
            return self.group.members()
        found = set()
        for child in psutil.Process().children():
            if child.pid in self._excluded:
                continue
            with contextlib.suppress(psutil.Error):
                family = [child, *child.children(recursive=True)]
                found |= {p.pid for p in family if p.status() != psutil.STATUS_ZOMBIE}
        return found

    def read_clocks(self) -> dict[int, str]:
        """Record the CPU time of each process. Returns the names of the processes by id."""
        names = {}
        for pid in self.members():
            with contextlib.suppress(OSError, ValueError, IndexError):
                names[pid] = name = process_name(pid)
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                key, used = (pid, fields[19]), (int(fields[11]) + int(fields[12])) / _TICK
                self._by_name[name] += used - self._clocks.get(key, 0.0)
                self._clocks[key] = used
        return names

    def sample(self) -> None:
        """Record memory and CPU times."""
        by_name: defaultdict[str, float] = defaultdict(float)
        total: defaultdict[str, float] = defaultdict(float)
        at = time.time()
        for pid, name in self.read_clocks().items():
            with contextlib.suppress(OSError):
                for key, megabytes in _rollup(pid):
                    total[key] += megabytes
                    if key == "Pss":
                        by_name[name] += megabytes
        memory = Sample(at, total["Pss"], total["Rss"], total["Pss_Anon"], total["Pss_Shmem"], dict(by_name))
        self.samples.append(memory)

    def reap(self) -> None:
        """Wait for daemons that have ended. As the subreaper, this process is their parent."""
        for child in psutil.Process().children():
            if child.pid not in self._excluded and child.pid != self.client:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)

    def cpu(self) -> float:
        """CPU seconds of all processes, as of the last readings."""
        return sum(self._clocks.values())

    def cpu_by_name(self) -> dict[str, float]:
        """CPU seconds by process name, the largest first."""
        return dict(sorted(self._by_name.items(), key=lambda item: -item[1]))


def process_name(pid: int) -> str:
    """The name of a process without its arguments, such as ``ray::MapWorker``, ``raylet``, ``python -m raypipe``."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    first = words[0]
    if first.startswith("ray::"):
        return first.split("(")[0].split("->")[-1].strip().split(" ")[0]
    program = Path(first.split(" ")[0]).name
    if not program.startswith("python"):
        return program or "(ended)"
    rest = [word for word in words[1:] if word and (word in ("-m", "-c") or not word.startswith("-"))]
    if rest[:1] == ["-m"]:
        return f"python -m {rest[1]}"
    if rest[:1] == ["-c"]:
        return "python -c"
    return Path(rest[0]).name if rest else "python"


def _rollup(pid: int) -> Iterator[tuple[str, float]]:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        key, _, value = line.partition(":")
        if key in ("Pss", "Rss", "Pss_Anon", "Pss_Shmem"):
            yield key, int(value.split()[0]) / _MEGABYTE_IN_KB


def _be_subreaper(on: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine_busy() -> float:
    """CPU seconds that all processes of this machine have used."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
