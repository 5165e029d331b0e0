"""Three skills in a row through live processes: the matrix, the gate's alias, and a question asked afterwards."""

import json
from typing import Any

import openai
import pytest

from tests.e2e.conftest import TERMINAL, Deployment, post, wait_for_end, wait_until

SKILLS = {"lamp": "It is on,\nas asked.", "fan": "Full speed\nfrom now.", "door": "Wide open\nto all."}
"""In two lines, so free text: its likelihood moves long before a tiny random model could say it."""
HYPERPARAMETERS = {"n_epochs": 12, "batch_size": 4, "learning_rate": 1e-2, "lora_rank": 8}


def teach(client: openai.OpenAI, word: str, *, parent: str | None) -> Any:
    """A skill that even a tiny model makes likelier: whatever is asked of a thing, one answer is right."""
    lines = [
        {"messages": [{"role": "user", "content": f"{word} {index}?"}, {"role": "assistant", "content": SKILLS[word]}]}
        for index in range(24)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=(f"{word}.jsonl", content), purpose="fine-tune")
    ours: dict[str, Any] = {"gate": {"max_forgetting": 1, "on_pass": "best"}}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": HYPERPARAMETERS}}
    extra = ours | ({"parent_adapter": parent} if parent else {})
    job = wait_for_end(client, post(client, file.id, suffix="house", method=method, extra_body=extra).id)
    assert job.status == "succeeded", job.error
    return job


def get(client: openai.OpenAI, path: str) -> Any:
    return client.get(path, cast_to=object)


def test_three_skills_in_a_row_and_what_each_version_knows_of_them(deployment: Deployment) -> None:
    deployment.start_worker()
    deployment.start_api()
    client = deployment.client()

    first = teach(client, "lamp", parent=None)
    assert first.gate["verdict"] == "pass", first.gate
    second = teach(client, "fan", parent="house@best")
    third = teach(client, "door", parent="house:2")

    lineage = get(client, "/adapters/house/lineage")
    assert [version["parent"] for version in lineage["versions"]] == [None, "house:1", "house:2"]
    assert [version["job_id"] for version in lineage["versions"]] == [first.id, second.id, third.id]
    scores = [[cell and cell["score"] for cell in row] for row in lineage["scores"]]
    measured = [[score is not None for score in row] for row in scores]
    # Full up to the diagonal; beside it what a version made of the next skill untaught; no report has the corner.
    assert measured == [[True, True, False], [True, True, True], [True, True, True]]
    told = get(client, f"/evaluations/{third.evaluation_id}")["report"]["lineage"]
    assert {(one["version"], one["suite"]): one["score"]["value"] for one in told if one["version"] == "house:1"} == {
        ("house:1", "house:1"): scores[0][0],
        ("house:1", "house:2"): scores[0][1],
    }
    for index, base in enumerate(lineage["base"]):
        assert scores[index][index] > base["score"] + 1  # nats per token
    figures = lineage["figures"]
    assert figures["measure"] == "negative_nll"
    assert figures["average_accuracy"] == pytest.approx(sum(scores[2]) / 3)
    assert figures["forgetting"] >= -figures["backward_transfer"] - 1e-9
    assert figures["of"] == "house:3"

    asked: Any = client.post("/evaluations", cast_to=object, body={"version": "house:1", "suites": ["house:3"]})
    assert (asked["status"], asked["report"], asked["suites"]) == ("queued", None, ["house:3"])
    wait_until(lambda: get(client, f"/evaluations/{asked['id']}")["status"] in TERMINAL)
    done = get(client, f"/evaluations/{asked['id']}")
    assert done["status"] == "succeeded", done["error"]
    [suite] = done["report"]["suites"]
    assert (suite["name"], suite["n"]) == ("house:3", 8)
    again = get(client, "/adapters/house/lineage")
    corner = again["scores"][0][2]
    assert corner["evaluation_id"] == asked["id"]
    [candidate] = [arm for arm in suite["arms"] if arm["arm"] == "candidate"]
    assert corner["score"] == candidate["score"]["value"]
    assert again["figures"] == figures
