"""What the demo says of a job's time; ``tests/e2e`` runs the whole story."""

from types import SimpleNamespace
from typing import Any

import pytest

from app.demo import run


class Client:
    """Takes what the demo sends; a job takes 95 seconds."""

    def __init__(self, seconds: dict[str, float] | None) -> None:
        self._seconds = seconds
        self.estimated: dict[str, Any] = {}
        self.posted: dict[str, Any] = {}
        self.files = SimpleNamespace(create=lambda file, **_: SimpleNamespace(id=file.name))
        self.fine_tuning = SimpleNamespace(jobs=SimpleNamespace(create=self._create))

    def post(self, path: str, *, body: dict[str, Any], cast_to: type[object]) -> object:
        assert (path, cast_to) == ("/fine_tuning/jobs/estimate", object)
        self.estimated = body
        return {"seconds": self._seconds}

    def _create(self, *, extra_body: dict[str, Any], **fields: Any) -> Any:
        self.posted = fields | extra_body
        return SimpleNamespace(id="ftjob-1", status="succeeded", error=None, created_at=1000, finished_at=1095)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [({"p50": 90.4, "p90": 113.0}, "took: 90 s, nine in ten within 113 s. It took 95 s."), (None, "")],
)
def test_a_skills_estimate_is_shown_beside_what_its_job_took_once_one_has_finished(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: dict[str, float] | None, said: str
) -> None:
    client: Any = Client(seconds)
    monkeypatch.setattr(run, "watch", lambda client, _id, _console: client._create(extra_body={}, **client.posted))
    run.train(client, "route", {"demo:1": "home"}, seed=3, compare=False)
    assert client.estimated == client.posted
    assert (client.posted["parent_adapter"], client.posted["seed"]) == ("demo:1", 3)
    told = " ".join(capsys.readouterr().out.split())
    assert said in told
    assert ("It took" in told) == bool(said)
