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


def model_card(*, base: str, base_revision: str, license_name: str | None, facts: dict[str, Any], results: str) -> str:
    """README.md of an adapter: only what the run knows.

    Args:
        base: Base model as PEFT will look for it.
        base_revision: Commit or digest.
        license_name: Licence of the base weights, if known.
        facts: Label -> value, shown as a table.
        results: Markdown summary of the evaluation.
    """
    header = {"base_model": base, "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora", "sdft"]}
    if license_name:
        header["license"] = license_name
    # JSON is YAML: no value can break out of the front matter.
    front = "\n".join(f"{key}: {json.dumps(value)}" for key, value in header.items())
    rows = "\n".join(f"| {label} | {value} |" for label, value in facts.items())
    return f"""---
{front}
---

# LoRA adapter over {base}

| | |
|---|---|
| base revision | {base_revision} |
{rows}

## Measured

{results}

## Load

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("{base}")
```

`provenance.json` names configuration, data digests, versions and seeds; `{SUMS_NAME}` the digest of every file.
"""


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
