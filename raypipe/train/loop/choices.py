"""Choices that a training makes for speed or because of too little memory. Each is one line of text with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from raypipe.train.data.mapped_rows import MappedRows, RowSource
from raypipe.train.loop.batch_loader import BatchStream, n_bytes
from raypipe.train.loop.inputs import DType

Compile = Literal["none", "default", "reduce-overhead"]


@dataclass(frozen=True)
class Choice:
    """`what` was chosen, the chosen value, and the reason."""

    what: str
    value: str
    why: str

    def __str__(self) -> str:
        return f"{self.what}: {self.value} ({self.why})"


OnChoice = Callable[[Choice], None]


def dtype_choice(wanted: str, device: str) -> Choice:
    """float32 or bfloat16, as `wanted`. ``auto`` is bfloat16 if the hardware multiplies it natively, else float32."""
    if wanted != "auto":
        return Choice("arithmetic", wanted, "set by --train.dtype")
    if device.startswith("cuda"):
        name, has = torch.cuda.get_device_name(device), torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # AVX-512 and AMX are native. Other CPUs emulate bfloat16, which is far slower than float32.
        has = bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())
        has = has and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
        name = f"this CPU ({torch.backends.cpu.get_cpu_capability()})"
    if has:
        return Choice("arithmetic", "bfloat16", f"{name} multiplies it natively; weights stay in float32")
    return Choice("arithmetic", "float32", f"{name} has no native bfloat16")


def compute_dtype(wanted: str, device: str) -> DType:
    """The value of `dtype_choice`."""
    return "bfloat16" if dtype_choice(wanted, device).value == "bfloat16" else "float32"


def row_location_choice(what: str, source: RowSource, memory_limit: float) -> Choice:
    """Where pictures or features are read from. `memory_limit`: bytes of the device's memory that they could use."""
    size = f"{n_bytes(source) / 1e9:,.2f} GB"
    if isinstance(source, BatchStream):
        return Choice(what, "streamed", f"{size} are read from the store in each epoch")
    on_gpu = f", more than {memory_limit / 1e9:,.1f} GB of the GPU" if memory_limit else ""
    if isinstance(source, MappedRows):
        return Choice(what, "mapped from files, read ahead", f"{size}{on_gpu}")
    device = getattr(source, "device", torch.device("cpu"))
    if device.type == "cpu":
        return Choice(what, "in main memory", f"{size}{on_gpu}")
    return Choice(what, "in the GPU's memory", f"{size}, enough memory is free")


def memory_format_choice(device: torch.device, dtype: DType) -> Choice:
    """Memory layout of a trained network and of its training pictures."""
    if device.type == "cpu" and dtype == "float32":
        return Choice(
            "memory", "channels first", "on a CPU, this is faster for float32 steps, but not without gradients"
        )
    return Choice("memory", "channels last", "convolutions are fastest this way")


def memory_format_for(device: torch.device, dtype: DType) -> torch.memory_format:
    """The value of `memory_format_choice`."""
    first = memory_format_choice(device, dtype).value == "channels first"
    return torch.contiguous_format if first else torch.channels_last


def compile_choice(mode: Compile, frozen: bool) -> Choice:
    """Whether the network is compiled, and how."""
    if frozen:
        return Choice("compilation", "none", "only one linear layer on features is trained")
    if mode == "none":
        return Choice("compilation", "none", "it takes about a minute per trial; see --train.compile")
    graphs = " with CUDA graphs" if mode == "reduce-overhead" else ""
    return Choice("compilation", f"{mode}{graphs}", "set by --train.compile")


def optimizer_choice(optimizer: torch.optim.Optimizer, fused: bool) -> Choice:
    """Which optimizer updates the weights, and whether it is fused."""
    name = type(optimizer).__name__
    if fused:
        return Choice("optimizer", f"{name}, fused", "one kernel for all weights")
    return Choice("optimizer", name, "this device has no fused version")


def micro_batch_choice(micro: int, batch: int) -> Choice:
    """The smaller pieces of a batch after the device's memory was too small."""
    return Choice(
        "batch",
        f"{batch} pictures, {micro} at a time",
        "the device has no memory for more; gradients are added up",
    )
