"""By what and where something was computed: our own code, the libraries, the hardware."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

import worker
from worker.hf.token_pass import compiled_pass

SOURCES: Final = {".py", ".c", ".h", ".jsonl"}
"""Also what is asked and rehearsed by default."""
LIBRARIES: Final = ("sdft-service", "torch", "transformers", "peft", "safetensors", "tokenizers")


def circumstances(device: torch.device) -> dict[str, Any]:
    """All of it, for a report."""
    return {
        "code_sha256": code_sha256(worker),
        "hardware": hardware(device),
        "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}},
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """What a sum's last bits depend on: where it is added up, by how many threads, and by what.

    ``compiled_pass`` is what decodes on a CPU where the base lets it; None: torch decodes.
    """
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "machine": platform.machine(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "compiled_pass": compiled_pass() if device.type == "cpu" else None,
    }


@cache
def _processor() -> str:
    """The CPU's name; Linux has it in a file, and an ARM there has none."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


@cache
def code_sha256(*packages: ModuleType) -> str:
    """Digest of packages' sources: a release's number says nothing of what was changed since."""
    digest = hashlib.sha256()
    for package in packages:
        for folder in map(Path, package.__path__):
            for path in sorted(path for path in folder.rglob("*") if path.suffix in SOURCES):
                content = path.read_bytes()
                digest.update(f"{package.__name__}/{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
                digest.update(content)
    return digest.hexdigest()
