"""Rows for tests, by plain functions: each adds, flushes and returns one row, making what it hangs on if not given.

``make_job(session, status="running")`` gives a row as the state machine would have left it, with its attempt.
"""

import hashlib
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.orm import Session

from app.db import models
from app.domain.ids import new_id, short
from app.domain.lifecycle import TERMINAL, Status
from app.storage.store import Store

Row = TypeVar("Row", bound=models.Base)

TRAINING_LINES = "\n".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": f"Say {number}"},
                {"role": "assistant", "content": f"It is {number}."},
            ]
        }
    )
    for number in range(12)
).encode()


def make_project(session: Session, **values: Any) -> models.Project:
    return _add(session, models.Project(**{"id": new_id("proj"), "name": f"project-{secrets.token_hex(6)}"} | values))


def make_key(
    session: Session, project: models.Project | None = None, *, secret: str = "sdft-test", **values: Any
) -> models.ApiKey:
    """A key that ``secret`` opens."""
    project = project or make_project(session)
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return _add(
        session,
        models.ApiKey(**{"id": new_id("key"), "project_id": project.id, "name": "test", "sha256": digest} | values),
    )


def store_bytes(store: Store, content: bytes) -> None:
    """Bytes as if they had been uploaded."""
    staged = store.stage()
    staged.write_bytes(content)
    store.put_file(staged)
    staged.unlink()


def make_blob(session: Session, content: bytes, *, store: Store | None = None, **values: Any) -> models.Blob:
    """The row of a blob, and its bytes too where a store is given."""
    if store:
        store_bytes(store, content)
    digest = hashlib.sha256(content).hexdigest()
    known = session.get(models.Blob, digest)
    return known or _add(session, models.Blob(**{"sha256": digest, "num_bytes": len(content)} | values))


def make_file(
    session: Session,
    project: models.Project | None = None,
    *,
    content: bytes = TRAINING_LINES,
    store: Store | None = None,
    **values: Any,
) -> models.File:
    project = project or make_project(session)
    blob = make_blob(session, content, store=store)
    defaults = {
        "id": new_id("file"),
        "project_id": project.id,
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "sha256": blob.sha256,
        "num_bytes": blob.num_bytes,
        "status": "processed",
    }
    return _add(session, models.File(**defaults | values))


def make_base_model(session: Session, name: str = "tiny", **values: Any) -> models.BaseModel:
    """The base of that name, made once a test."""
    if known := session.get(models.BaseModel, name):
        return known
    defaults = {
        "name": name,
        "source": f"folder:{name}",
        "revision": "0" * 40,
        "path": name,
        "digests": {"model.safetensors": "0" * 64},
        "weights_sha256": "0" * 64,
        "tokenizer_sha256": make_blob(session, b"a tokenizer").sha256,
        "chat_template_sha256": "0" * 64,
        "overheads": {},
        "architecture": "LlamaForCausalLM",
        "num_parameters": 1000,
        "context_tokens": 512,
        "license": "apache-2.0",
    }
    return _add(session, models.BaseModel(**defaults | values))


def make_worker(session: Session, **values: Any) -> models.Worker:
    return _add(
        session, models.Worker(**{"id": new_id("worker"), "host": "testhost", "pid": 1, "device": "cpu"} | values)
    )


def make_job(
    session: Session,
    status: Status = "queued",
    *,
    project: models.Project | None = None,
    training_file: models.File | None = None,
    **values: Any,
) -> models.Job:
    project = project or make_project(session)
    training_file = training_file or make_file(session, project)
    job_id = values.pop("id", new_id("ftjob"))
    defaults: dict[str, Any] = {
        "project_id": project.id,
        "base_model": make_base_model(session).name,
        "training_file_id": training_file.id,
        "method": "sdft",
        "hyperparameters": {},
        "seed": 1,
        "adapter_name": f"adapter-{short(job_id)}",
        "status": status,
    }
    job = _add(session, models.Job(id=job_id, **defaults | _standing(session, status, values) | values))
    if job.fence:
        worker_id = job.lease_owner or make_worker(session).id
        _add(session, models.JobAttempt(job_id=job.id, fence=job.fence, worker_id=worker_id, first_step=0))
    session.refresh(job)
    return job


def make_version(
    session: Session,
    *,
    project: models.Project | None = None,
    adapter: models.Adapter | None = None,
    job: models.Job | None = None,
    files: dict[str, bytes] | None = None,
    store: Store | None = None,
    heldout: bytes | None = None,
    report: dict[str, Any] | None = None,
    gate: dict[str, Any] | None = None,
    **values: Any,
) -> models.AdapterVersion:
    """A published version with its folder, its archive and its evaluation."""
    project = project or make_project(session)
    job = job or make_job(session, "succeeded", project=project)
    adapter = adapter or _add(
        session,
        models.Adapter(id=new_id("adapter"), project_id=project.id, name=job.adapter_name, base_model=job.base_model),
    )
    archive = make_file(session, project, content=b"a tar", store=store, purpose="fine-tune-results")
    defaults = {
        "id": new_id("version"),
        "adapter_id": adapter.id,
        "version": 1,
        "job_id": job.id,
        "model_id": f"ft:{job.base_model}:{project.name}:{adapter.name}:{short(job.id)}",
        "manifest_sha256": "0" * 64,
        "archive_file_id": archive.id,
    }
    version = _add(session, models.AdapterVersion(**defaults | values))
    for path, content in (files or {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}).items():
        blob = make_blob(session, content, store=store)
        _add(
            session,
            models.AdapterFile(version_id=version.id, path=path, sha256=blob.sha256, num_bytes=blob.num_bytes),
        )
    make_evaluation(
        session, version, project=project, heldout=heldout, store=store, report=report or {"suites": []}, gate=gate
    )
    return version


def make_evaluation(
    session: Session,
    version: models.AdapterVersion,
    *,
    project: models.Project,
    heldout: bytes | None = None,
    store: Store | None = None,
    **values: Any,
) -> models.Evaluation:
    defaults: dict[str, Any] = {
        "id": new_id("eval"),
        "project_id": project.id,
        "job_id": version.job_id,
        "version_id": version.id,
        "against_version_id": version.parent_version_id,
        "report": {"suites": []},
        "html_sha256": make_blob(session, b"<!doctype html>", store=store).sha256,
        "heldout_sha256": make_blob(session, heldout, store=store).sha256 if heldout is not None else None,
        "scorer": "exact",
        "max_completion_tokens": 16,
    }
    return _add(session, models.Evaluation(**defaults | values))


def make_alias(session: Session, version: models.AdapterVersion, name: str) -> models.Alias:
    """An alias that was moved once."""
    adapter = session.get_one(models.Adapter, version.adapter_id)
    entry = models.AuditEntry(
        id=new_id("audit"),
        project_id=adapter.project_id,
        actor=new_id("key"),
        action="alias.moved",
        subject=f"{adapter.name}@{name}",
        details={"from_version": None, "to_version": version.version},
    )
    moved_by = _add(session, entry).id
    return _add(session, models.Alias(adapter_id=adapter.id, name=name, version_id=version.id, moved_by=moved_by))


def make_checkpoint(
    session: Session, job: models.Job, step: int, *, store: Store | None = None, **values: Any
) -> models.Checkpoint:
    project = session.get_one(models.Project, job.project_id)
    archive = make_file(
        session, project, content=f"tar of step {step}".encode(), store=store, purpose="fine-tune-results"
    )
    defaults = {
        "id": new_id("ftckpt"),
        "job_id": job.id,
        "fence": job.fence,
        "step": step,
        "adapter_file_id": archive.id,
        "state_sha256": make_blob(session, f"state of step {step}".encode(), store=store).sha256,
        "metrics": {"train_loss": 1.0},
    }
    return _add(session, models.Checkpoint(**defaults | values))


def make_event(
    session: Session, job: models.Job, message: str = "Something happened.", **values: Any
) -> models.JobEvent:
    defaults = {
        "id": new_id("ftevent"),
        "job_id": job.id,
        "fence": job.fence,
        "level": "info",
        "type": "message",
        "message": message,
    }
    return _add(session, models.JobEvent(**defaults | values))


def _standing(session: Session, status: Status, values: dict[str, Any]) -> dict[str, Any]:
    """The columns that the table's own constraints tie to a status."""
    now = datetime.now(UTC)
    if status == "running":
        owner = values.get("lease_owner") or make_worker(session).id
        expires = now + timedelta(seconds=60)
        return {"phase": "claimed", "fence": 1, "lease_owner": owner, "lease_expires_at": expires, "started_at": now}
    if status not in TERMINAL:
        return {"phase": "waiting"}
    ended: dict[str, Any] = {"phase": "done", "finished_at": now}
    if status == "failed":
        ended |= {"error_code": "internal_error", "error_message": "It broke."}
    return ended


def _add(session: Session, row: Row) -> Row:
    session.add(row)
    session.flush()
    return row
