"""Downloads an adapter and trusts no byte of it unchecked."""

import hashlib
import json
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import OpenAI

SUMS_NAME = "SHA256SUMS"


class BadDownload(Exception):
    """A file of the adapter is missing or is not what its manifest says."""


def pull_adapter(client: "OpenAI", archive_file_id: str, to: Path) -> None:
    """Download an adapter's archive and unpack it, whole or not at all.

    Args:
        client: To download with.
        archive_file_id: File id of the tar archive.
        to: Folder to make; must not exist.

    Raises:
        BadDownload: What arrived is not what was published.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to.parent, prefix=".pull-") as scratch:
        archive, folder = Path(scratch) / "adapter.tar", Path(scratch) / "adapter"
        with client.files.with_streaming_response.content(archive_file_id) as answer:
            answer.stream_to_file(archive)
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        check_digests(folder)
        folder.rename(to)


def how_to_load(folder: Path) -> str:
    """What to do with a folder that was pulled, and which base it needs: its provenance tells."""
    base = json.loads((folder / "provenance.json").read_text())["base"]
    kind, _, origin = base["source"].partition(":")
    if kind == "hub":
        named, about = f'"{origin}", revision="{base["revision"]}"', ""
    else:
        named = "BASE"
        about = f"\nBASE: the folder of the base model {base['name']} ({kind} {origin}); see {folder}/README.md"
    return f'Load it: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({named}), "{folder}"){about}'


def check_digests(folder: Path) -> None:
    """Compare every file with the manifest beside it.

    Raises:
        BadDownload: One differs, is missing, or is not named.
    """
    lines = [line.split(maxsplit=1) for line in (folder / SUMS_NAME).read_text().splitlines()]
    expected = {name: digest for digest, name in lines}
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {SUMS_NAME}
    if odd := present ^ expected.keys():
        raise BadDownload(f"{', '.join(sorted(odd))}: in the folder or in {SUMS_NAME}, but not in both")
    for name, digest in expected.items():
        with (folder / name).open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != digest:
                raise BadDownload(f"{name} does not have the digest that {SUMS_NAME} gives")
