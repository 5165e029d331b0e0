"""What this process holds of the memory of machine and device, and how it gives back what it no longer needs."""

import ctypes
import gc
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def held_bytes() -> int | None:
    """Memory in use now: resident, and allocated on the device. None where the system does not tell."""
    resident = _status_bytes("VmRSS")
    if resident is None:
        return None
    return resident + (torch.cuda.memory_allocated() if torch.cuda.is_initialized() else 0)


def reset_peak() -> None:
    """Let ``peak_bytes`` count from now on, where the system can; a process that serves many jobs needs it."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")


def peak_bytes() -> int:
    """The most that was held since ``reset_peak``, else since the process began.

    On a device, of the device's memory: that is what a job may not fit into.
    """
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    since_reset = _status_bytes("VmHWM")
    if since_reset is not None:
        return since_reset
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def ran_out(error: Exception) -> bool:
    """Whether an error says that there was no memory; of a CPU's torch has no type of its own."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def give_back() -> None:
    """Collect what nothing names any more and return its pages, so that an idle process holds no more than it needs."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc keeps freed pages otherwise
    if trim is not None:
        trim(0)


def _status_bytes(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    lines = (line.split() for line in _STATUS.read_text(encoding="ascii").splitlines())
    return next((int(fields[1]) * 1024 for fields in lines if fields[0] == f"{name}:"), None)
