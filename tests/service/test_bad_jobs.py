"""Every way that a job's request can be wrong, and what its sender is told."""

import json

import pytest

from app.db.models import Job
from app.db.session import transaction
from tests import factories
from tests.service.conftest import OVERHEADS, error_of, make_counting_base, upload

JOBS = "/v1/fine_tuning/jobs"
UNKNOWN_FILE = "file-" + "0" * 32


def sdft(**numbers):
    return {"method": {"type": "sdft", "sdft": {"hyperparameters": numbers}}}


def supervised(**numbers):
    return {"method": {"type": "supervised", "supervised": {"hyperparameters": numbers}}}


SDFT, SUPERVISED = "method.sdft.hyperparameters", "method.supervised.hyperparameters"
FIELDS = [
    ({"n_epochs": 3}, "unknown_parameter", "n_epochs", "there are: "),
    ({"trainning_file": "x"}, "unknown_parameter", "trainning_file", "did you mean training_file?"),
    ({"parent": "demo:1"}, "unknown_parameter", "parent", "did you mean parent_adapter?"),
    ({"validation": "file-1"}, "unknown_parameter", "validation", "did you mean validation_file?"),
    ({"compares": ["supervised"]}, "unknown_parameter", "compares", "did you mean compare?"),
    ({"compare": ["supervized"]}, "unsupported_method", "compare[0]", 'did you mean "supervised"?'),
    ({"compare": ["dpo"]}, "unsupported_method", "compare[0]", 'there is "supervised".'),
    ({"compare": "supervised"}, "invalid_value", "compare", "a list with at most 1 item, or"),
    ({"compare": ["supervised", "supervised"]}, "invalid_value", "compare", "at most 1 item, or"),
    ({"evaluation": {"suites": ["x" * 200]}}, "invalid_value", "evaluation.suites[0]", "1 to 128 characters"),
    ({"compare": [3]}, "invalid_value", "compare[0]", '"supervised", or an object'),
    ({"compare": [{"method": "sdft"}]}, "invalid_value", "compare[0].method", '"supervised"'),
    ({"compare": [{"learning_rate": 1e-4}]}, "missing_required_parameter", "compare[0].method", "is required"),
    (
        {"compare": [{"method": "supervised", "learning_rat": 1e-4}]},
        "unknown_parameter",
        "compare[0].learning_rat",
        "did you mean learning_rate?",
    ),
    (
        {"compare": [{"method": "supervised", "learning_rate": 1}]},
        "invalid_value",
        "compare[0].learning_rate",
        "from 1e-07 to 0.01",
    ),
    (supervised() | {"compare": ["supervised"]}, "invalid_value", "compare", "remove compare"),
    (sdft(n_epoch=3), "unknown_parameter", f"{SDFT}.n_epoch", "did you mean n_epochs?"),
    (sdft(rehearsal={"shares": 0.1}), "unknown_parameter", f"{SDFT}.rehearsal.shares", "did you mean share?"),
    (supervised(template="paper"), "unknown_parameter", f"{SUPERVISED}.template", ""),
    ({"hyperparameters": {"epochs": 3}}, "unknown_parameter", "hyperparameters.epochs", "did you mean n_epochs?"),
    ({"limits": {"max_second": 3}}, "unknown_parameter", "limits.max_second", "did you mean max_seconds?"),
    (sdft(n_epochs=0), "invalid_value", f"{SDFT}.n_epochs", 'a whole number from 1 to 50, or "auto"'),
    (sdft(n_epochs=51), "invalid_value", f"{SDFT}.n_epochs", 'a whole number from 1 to 50, or "auto"'),
    (sdft(n_epochs="3"), "invalid_value", f"{SDFT}.n_epochs", 'a whole number from 1 to 50, or "auto"'),
    (sdft(n_epochs=True), "invalid_value", f"{SDFT}.n_epochs", 'a whole number from 1 to 50, or "auto"'),
    (sdft(batch_size=257), "invalid_value", f"{SDFT}.batch_size", "from 1 to 256"),
    (sdft(learning_rate=1), "invalid_value", f"{SDFT}.learning_rate", "from 1e-07 to 0.01"),
    (sdft(learning_rate=0), "invalid_value", f"{SDFT}.learning_rate", "from 1e-07 to 0.01"),
    (supervised(learning_rate_multiplier=0), "invalid_value", f"{SUPERVISED}.learning_rate_multiplier", "above 0"),
    (
        sdft(loss_skip_tokens=4, max_completion_tokens=4),
        "invalid_value",
        f"{SDFT}.loss_skip_tokens",
        "raise max_completion_tokens",
    ),
    (sdft(template="poem"), "invalid_value", f"{SDFT}.template", '"paper", "example"'),
    (sdft(rehearsal={"share": 2}), "invalid_value", f"{SDFT}.rehearsal.share", "from 0 to 0.75"),
    (sdft(objective={"kinds": "jsd"}), "unknown_parameter", f"{SDFT}.objective.kinds", "did you mean kind?"),
    (sdft(objective="jsd"), "invalid_value", f"{SDFT}.objective", "an object"),
    (sdft(objective={"kind": "js"}), "invalid_value", f"{SDFT}.objective.kind", '"forward_kl", "reverse_kl", "jsd"'),
    (sdft(objective={"kind": "jsd", "alpha": 1}), "invalid_value", f"{SDFT}.objective.alpha", "above 0 below 1"),
    (sdft(objective={"alpha": 0.5}), "invalid_value", f"{SDFT}.objective.alpha", "set objective.kind to jsd"),
    (
        sdft(objective={"kind": "isdft", "rho0": 0.9, "rho1": 0.5}),
        "invalid_value",
        f"{SDFT}.objective.rho0",
        "swap them",
    ),
    (sdft(objective={"entry_clip": 0}), "invalid_value", f"{SDFT}.objective.entry_clip", "above 0 to 100"),
    (sdft(anchor_weight=2), "invalid_value", f"{SDFT}.anchor_weight", "from 0 to 1"),
    (sdft(teacher={"kind": "moving"}), "invalid_value", f"{SDFT}.teacher.kind", '"hard_sync", "live"'),
    (
        sdft(teacher={"kind": "hard_sync", "rate": 0.1}),
        "invalid_value",
        f"{SDFT}.teacher.rate",
        "set teacher.kind to ema",
    ),
    (sdft(teacher={"every": 5}), "invalid_value", f"{SDFT}.teacher.every", "set teacher.kind to ema or hard_sync"),
    (sdft(preset="fast"), "invalid_value", f"{SDFT}.preset", '"default", "paper", "retain"'),
    (sdft(rehearsal={"prompts": "file"}), "invalid_value", f"{SDFT}.rehearsal.file", "rehearsal.file must be the id"),
    (
        sdft(rehearsal={"file": UNKNOWN_FILE}),
        "invalid_value",
        f"{SDFT}.rehearsal.file",
        'set rehearsal.prompts to "file"',
    ),
    (sdft(preset="paper", rehearsal={"prompts": "self"}), "invalid_value", f"{SDFT}.rehearsal.prompts", "set a share"),
    (sdft(offline_share=1, rollouts_per_prompt=2), "invalid_value", f"{SDFT}.rollouts_per_prompt", "lower either"),
    (sdft(offline_share=1.5), "invalid_value", f"{SDFT}.offline_share", "a number from 0 to 1"),
    (
        sdft(rehearsal={"prompts": "file", "file": UNKNOWN_FILE}),
        "file_not_found",
        f"{SDFT}.rehearsal.file",
        "upload it first",
    ),
    ({"method": {"type": "dpo"}}, "unsupported_method", "method.type", '"sdft" or "supervised"'),
    ({"method": {"type": "sdft", "dpo": {}}}, "unsupported_method", "method.dpo", "trains by sdft or supervised"),
    ({"method": {"type": "sdft", "reinforcement": {}}}, "unsupported_method", "method.reinforcement", "leave it out"),
    ({"method": {"type": "sdft", "rl": {}}}, "unknown_parameter", "method.rl", "there are: sdft, supervised, type."),
    ({"method": {}}, "missing_required_parameter", "method.type", "is required"),
    ({"method": {"type": "sdft", "supervised": {}}}, "invalid_value", "method.supervised", "has no effect"),
    ({"hyperparameters": {"n_epochs": 3}} | sdft(), "invalid_value", "hyperparameters", "given twice"),
    ({"training_file": ""}, "invalid_value", "training_file", "a string of 1 to 64 characters."),
    ({"suffix": ""}, "invalid_value", "suffix", "at most 64 characters"),
    ({"suffix": "x" * 65}, "invalid_value", "suffix", "at most 64 characters"),
    ({"suffix": "../x"}, "invalid_value", "suffix", "that matches"),
    ({"suffix": "x\n"}, "invalid_value", "suffix", "that matches"),
    ({"seed": -1}, "invalid_value", "seed", "from 0 to 2147483647"),
    ({"seed": 2**31}, "invalid_value", "seed", "from 0 to 2147483647"),
    ({"seed": 1.5}, "invalid_value", "seed", "a whole number"),
    ({"metadata": {"k": 1}}, "invalid_value", "metadata.k", "a string of at most 512 characters"),
    ({"metadata": {"k": "v" * 513}}, "invalid_value", "metadata.k", "a string of at most 512 characters"),
    ({"metadata": {"k" * 65: "v"}}, "invalid_value", "metadata", "Each key"),
    ({"metadata": {str(n): "v" for n in range(17)}}, "invalid_value", "metadata", "at most 16 keys"),
    ({"integrations": [{"type": "wandb"}]}, "invalid_value", "integrations", "has no integrations"),
    ({"limits": {"max_seconds": 0}}, "invalid_value", "limits.max_seconds", "from 1 to"),
    ({"model": 3}, "invalid_value", "model", "a string"),
    ({"model": "gpt-9"}, "model_not_found", "model", "there are: tiny"),
    ({"model": "../tiny"}, "model_not_found", "model", ""),
    ({"training_file": UNKNOWN_FILE}, "file_not_found", "training_file", "upload it first"),
    ({"training_file": "train.jsonl"}, "file_not_found", "training_file", "upload it first"),
    ({"validation_file": UNKNOWN_FILE}, "file_not_found", "validation_file", "upload it first"),
    ({"parent_adapter": "nothing:1"}, "parent_not_found", "parent_adapter", "my-adapter:3"),
    ({"parent_adapter": "nothing"}, "parent_not_found", "parent_adapter", "my-adapter:3"),
    ({"parent_adapter": "ft:tiny:acme:x:00000000"}, "parent_not_found", "parent_adapter", ""),
]


@pytest.mark.parametrize(("fields", "code", "param", "said"), FIELDS)
def test_a_bad_field_is_named_with_what_it_takes(*, http, base, file_id, sessions, broker, fields, code, param, said):
    response = http.post("/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": file_id} | fields)
    error = error_of(response, 400)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
    assert said in error["message"]
    assert broker.rung == []
    with transaction(sessions) as session:
        assert session.query(Job).count() == 0


@pytest.mark.parametrize("name", ["model", "training_file"])
def test_a_missing_field_is_named(http, base, file_id, name):
    body = {"model": "tiny", "training_file": file_id}
    del body[name]
    error = error_of(http.post(JOBS, json=body), 400)
    assert (error["code"], error["param"]) == ("missing_required_parameter", name)


def test_all_bad_fields_are_told_at_once_and_a_wrong_name_first(http, base, file_id):
    fields = {"seed": -1, "model": 3} | sdft(n_epochs=99, learning_rat=1)
    error = error_of(http.post(JOBS, json={"training_file": file_id} | fields), 400)
    assert error["param"] == f"{SDFT}.learning_rat"
    assert {finding["param"] for finding in error["errors"]} == {
        "seed", "model", f"{SDFT}.n_epochs", f"{SDFT}.learning_rat",
    }  # fmt: skip


def test_of_very_many_bad_fields_the_first_hundred_are_told_and_all_are_counted(http, base, file_id):
    """Fault caught: a megabyte of keys took five seconds, in which nobody else was served, and eight megabytes."""
    fields = {f"evaluat{number:x}": 0 for number in range(20_000)} | {"seed": -1}
    response = http.post(JOBS, json={"model": "tiny", "training_file": file_id} | fields)
    error = error_of(response, 400)
    assert (error["code"], error["param"]) == ("unknown_parameter", "evaluat0")
    assert len(error["errors"]) == 100
    assert error["counts"] == {"unknown_parameter": 20_000, "invalid_value": 1}
    assert "the first of 20001 findings" in error["message"]
    assert len(response.content) < 50_000


@pytest.mark.parametrize(
    "fields",
    ['"{}": 1', '"metadata": {{"{}": 1}}', '"{}": 1e999', '"{}": "\\u0000"', '"metadata": {{"{}": "\\u0000"}}'],
)
def test_a_long_name_of_the_clients_own_is_cut_where_it_is_repeated(http, base, fields):
    body = f"{{{fields.format('k' * 500_000)}}}".encode()
    response = http.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    assert len(error_of(response, 400)["param"]) <= 120
    assert len(response.content) < 2000


@pytest.mark.parametrize(
    ("metadata", "param", "said"),
    [
        ({"[key]": 5}, "metadata.[key]", "a string"),
        ({"k" * 65: "x"}, "metadata", "Each key of metadata must be a string of at most 64 characters."),
        ({"[key]" * 13: "x"}, "metadata", "Each key of metadata must be"),
    ],
)
def test_a_key_is_told_from_its_value(*, http, base, file_id, metadata, param, said):
    """Fault caught: a client's own key ``[key]``, by which pydantic says that a key is meant, was an error of ours."""
    body = {"model": "tiny", "training_file": file_id, "metadata": metadata}
    error = error_of(http.post(JOBS, json=body), 400)
    assert (error["code"], error["param"]) == ("invalid_value", param)
    assert said in error["message"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "missing_required_parameter"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_value"),
        (b'"x"', "invalid_value"),
        (b'{"model": "\xff"}', "bad_encoding"),
        (b'\xef\xbb\xbf{"model": "tiny"}', "bom_present"),
        (b'{"model": "tiny\\u0000"}', "bad_encoding"),
        (b'{"model": "\\ud800"}', "bad_encoding"),
        (b'{"metadata": {"\\udfff": "x"}}', "bad_encoding"),
        (b'{"\\udfff": [1e999]}', "invalid_json"),
        (b'{"model": "tiny", "model": "tiny"}', "invalid_json"),
        (b'{"seed": NaN}', "invalid_json"),
        (b'{"seed": 9223372036854775808}', "invalid_json"),
        (b'{"seed": ' + b"9" * 4000 + b"}", "invalid_json"),
        (b'{"metadata": ' + b"[" * 2000 + b"]" * 2000 + b"}", "invalid_json"),
    ],
)
def test_a_body_that_is_not_one_strict_object_is_refused(http, base, body, code):
    response = http.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    assert error_of(response, 400)["code"] == code


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ('"seed": 9223372036854775808', "seed", "seed must be a whole number from 0 to 2147483647, or null."),
        ('"limits": {"max_seconds": 1e300}', "limits.max_seconds", "a whole number from 1 to 2592000, or null."),
        ('"compare": [{"learning_rate": 1e999}]', "compare[0].learning_rate", "a number from 1e-07 to 0.01"),
        ('"no_such": [1, 9223372036854775808]', "no_such[1]", "Use a smaller number."),
        ('"seed": 9223372036854775808, "model": ]', None, "Use a smaller number."),
    ],
)
def test_a_number_that_is_too_large_is_told_with_its_field_and_range(http, base, body, param, said):
    """Fault caught: the advice was to send a string, which no field that takes a number takes."""
    response = http.post(JOBS, content=f"{{{body}}}".encode(), headers={"Content-Type": "application/json"})
    error = error_of(response, 400)
    assert error["param"] == param
    assert "is beyond 2^53" in error["message"]
    assert error["message"].endswith(said) or said in error["message"]


def test_a_body_of_another_type_is_told_what_to_be(http, base):
    response = http.post(JOBS, content=b"model=tiny", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert "Content-Type: application/json" in error_of(response, 400)["message"]


def test_results_of_a_job_are_nothing_to_train_on(http, base, session, project):
    file = factories.make_file(session, project, purpose="fine-tune-results")
    session.commit()
    error = error_of(http.post(JOBS, json={"model": "tiny", "training_file": file.id}), 400)
    assert (error["code"], error["param"]) == ("invalid_file_purpose", "training_file")


def test_a_version_over_another_base_is_no_parent(http, base, session, project, file_id):
    factories.make_base_model(session, "other", overheads=OVERHEADS)
    version = factories.make_version(session, project=project)
    session.commit()
    body = {"model": "other", "training_file": file_id, "parent_adapter": version.model_id}
    error = error_of(http.post(JOBS, json=body), 400)
    assert (error["code"], error["param"]) == ("parent_over_another_base", "parent_adapter")


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/estimate"])
@pytest.mark.parametrize("make", [sdft, supervised])
def test_another_lora_rank_or_alpha_than_the_parent_has_is_refused(
    *, http, base, session, project, file_id, path, make
):
    """Fault caught: the number is echoed, and the parent's is what the job trains with."""
    job = factories.make_job(
        session, "succeeded", project=project, adapter_name="mine", resolved={"lora_rank": 16, "lora_alpha": 32}
    )
    factories.make_version(session, project=project, job=job)
    session.commit()
    body = {"model": "tiny", "training_file": file_id, "parent_adapter": "mine:1"}
    where = SDFT if make is sdft else SUPERVISED
    for name, number in (("lora_rank", 8), ("lora_alpha", 16)):
        error = error_of(http.post(path, json=body | make(**{name: number})), 400)
        assert (error["code"], error["param"]) == ("invalid_value", f"{where}.{name}")
        assert f"mine:1 has {name} {2 * number}" in error["message"]
    error = error_of(http.post(path, json=body | {"hyperparameters": {"lora_rank": 8}}), 400)
    assert error["param"] == "hyperparameters.lora_rank"


@pytest.mark.parametrize("again", [False, True])
def test_the_training_file_is_no_validation_file(http, base, file_id, again):
    """Neither by its id nor uploaded once more."""
    validation_file = upload(http).json()["id"] if again else file_id
    body = {"model": "tiny", "training_file": file_id, "validation_file": validation_file}
    error = error_of(http.post(JOBS, json=body), 400)
    assert (error["code"], error["param"]) == ("invalid_value", "validation_file")
    assert "leave it out" in error["message"]


def test_an_adapter_name_over_another_base_is_taken(http, base, session, project, file_id):
    factories.make_base_model(session, "other", overheads=OVERHEADS)
    job = factories.make_job(session, "succeeded", project=project, adapter_name="mine")
    factories.make_version(session, project=project, job=job)
    session.commit()
    error = error_of(http.post(JOBS, json={"model": "other", "training_file": file_id, "suffix": "mine"}), 400)
    assert (error["code"], error["param"]) == ("adapter_over_another_base", "suffix")


def test_an_adapter_name_that_a_job_under_way_will_take_over_another_base_is_taken(http, base, session, file_id):
    """Fault caught: the second of two jobs is trained to its end, and then there is no line to publish it in."""
    factories.make_base_model(session, "other", overheads=OVERHEADS)
    session.commit()
    body = {"model": "tiny", "training_file": file_id, "suffix": "mine"}
    first = http.post(JOBS, json=body).json()
    assert http.post(JOBS, json=body).status_code == 200
    error = error_of(http.post(JOBS, json=body | {"model": "other"}), 400)
    assert (error["code"], error["param"]) == ("adapter_over_another_base", "suffix")
    assert "is making mine over tiny" in error["message"]
    assert http.post(f"{JOBS}/{first['id']}/cancel").status_code == 200


def test_a_version_named_as_model_is_told_what_to_name_instead(http, base, file_id):
    error = error_of(http.post(JOBS, json={"model": "ft:tiny:default:mine:1", "training_file": file_id}), 400)
    assert error["message"].endswith("name its base as model and the version as parent_adapter.")


def test_a_deleted_version_is_no_parent(http, base, session, project, file_id):
    version = factories.make_version(session, project=project)
    session.commit()
    http.delete(f"/v1/models/{version.model_id}")
    body = {"model": "tiny", "training_file": file_id, "parent_adapter": version.model_id}
    assert error_of(http.post(JOBS, json=body), 400)["code"] == "parent_not_found"


def example(prompt_words, answer_words, document_words=0):
    document = {"document": "d " * document_words} if document_words else {}
    return json.dumps({"prompt": "p " * prompt_words, "completion": "a " * answer_words} | document).encode()


@pytest.fixture
def counted_base(session, store):
    """A base with room for a hundred words."""
    return make_counting_base(session, store, context_tokens=100)


def test_only_a_teacher_reads_documents(http, counted_base):
    """What is trained on plainly, and what is rehearsed, may have any document beside it."""
    lines = b"\n".join([factories.TRAINING_LINES, example(5, 5, 90)])
    file_id = upload(http, lines).json()["id"]
    assert http.post(JOBS, json={"model": "tiny", "training_file": file_id} | supervised()).status_code == 200
    fitting = upload(http, b"\n".join([factories.TRAINING_LINES, example(5, 5, 60)])).json()["id"]
    rehearsing = sdft(rehearsal={"prompts": "file", "file": file_id})
    assert http.post(JOBS, json={"model": "tiny", "training_file": fitting} | rehearsing).status_code == 200


def test_prompts_to_rehearse_must_fit_too(http, counted_base, file_id):
    """Without their answers shown to a teacher: what is too long for that is not too long here."""
    for line, status in ((example(30, 35), 200), (example(80, 30), 400)):
        rehearsed = upload(http, b"\n".join([factories.TRAINING_LINES, line])).json()["id"]
        asked = sdft(rehearsal={"prompts": "file", "file": rehearsed})
        response = http.post(JOBS, json={"model": "tiny", "training_file": file_id} | asked)
        assert response.status_code == status
    error = error_of(response, 400)
    assert (error["code"], error["param"]) == ("example_over_context", f"{SDFT}.rehearsal.file")
    assert error["errors"][0]["line"] == 13


CONTRADICTIONS = [
    (sdft(teacher={"kind": "ema", "every": 5000}), f"{SDFT}.teacher.every", "more than the job's 48 steps"),
    (sdft(teacher={"kind": "hard_sync", "every": 5000}), f"{SDFT}.teacher.every", "lower it"),
    (sdft(preset="paper", teacher={"every": 5000}), f"{SDFT}.teacher.every", "lower it"),
    (sdft(loss_skip_tokens=16), f"{SDFT}.loss_skip_tokens", "a completion of at most 8 tokens"),
    (sdft(learning_rate=1e-2, learning_rate_multiplier=100), f"{SDFT}.learning_rate_multiplier", "is 1, and has to be"),
    (sdft(learning_rate_multiplier=100), f"{SDFT}.learning_rate_multiplier", "0.001 times"),
    (supervised(learning_rate_multiplier=100), f"{SUPERVISED}.learning_rate_multiplier", "0.0005 times"),
    (supervised(learning_rate_multiplier=1e-9), f"{SUPERVISED}.learning_rate_multiplier", "from 1e-07 to 0.01"),
    ({"hyperparameters": {"learning_rate_multiplier": 50}}, "hyperparameters.learning_rate_multiplier", "is 0.05"),
]


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/estimate"])
@pytest.mark.parametrize(("fields", "param", "said"), CONTRADICTIONS)
def test_numbers_that_contradict_the_data_or_each_other_are_named(
    *, http, counted_base, file_id, path, fields, param, said
):
    error = error_of(http.post(path, json={"model": "tiny", "training_file": file_id} | fields), 400)
    assert (error["code"], error["param"]) == ("invalid_value", param)
    assert said in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        sdft(teacher={"kind": "ema", "every": 48}),
        sdft(loss_skip_tokens=7),
        sdft(loss_skip_tokens=16, max_completion_tokens=17),
        sdft(learning_rate_multiplier=10),
        supervised(learning_rate=1e-2, learning_rate_multiplier=0.001),
    ],
)
def test_numbers_that_the_data_allows_are_taken(http, counted_base, file_id, fields):
    response = http.post(JOBS, json={"model": "tiny", "training_file": file_id} | fields)
    assert response.status_code == 200, response.json()


@pytest.mark.parametrize(
    ("line", "fields", "code"),
    [
        (example(80, 20), {}, "example_over_context"),
        (example(80, 20), supervised(), "example_over_context"),
        (example(20, 30), sdft(max_completion_tokens=80), "example_over_context"),
        (example(30, 35), {}, "teacher_prompt_over_context"),
        (example(10, 22), sdft(template="paper"), "teacher_prompt_over_context"),
        (example(10, 22), sdft(preset="paper"), "teacher_prompt_over_context"),
        (example(5, 5, 90), {}, "teacher_prompt_over_context"),
        (example(5, 5, 60), sdft(template="paper"), "teacher_prompt_over_context"),
        (example(20, 16), sdft(template="multi_turn_twice"), "teacher_prompt_over_context"),
    ],
)
def test_examples_that_do_not_fit_are_told_by_line(http, counted_base, line, fields, code):
    lines = factories.TRAINING_LINES.split(b"\n")
    file_id = upload(http, b"\n".join([*lines[:6], line, *lines[6:]])).json()["id"]
    error = error_of(http.post(JOBS, json={"model": "tiny", "training_file": file_id} | fields), 400)
    assert (error["code"], error["param"]) == (code, "training_file")
    assert [(finding["line"], finding["code"]) for finding in error["errors"]] == [(7, code)]


@pytest.mark.parametrize(
    ("line", "fields", "hint"),
    [
        (example(80, 20), supervised(), "Shorten the example or remove it."),
        (example(30, 35), {}, "Shorten the example or remove it."),
        (example(30, 35), sdft(max_completion_tokens=40), "Shorten the example or remove it."),
        (example(20, 30), sdft(max_completion_tokens=80), "Shorten the example or lower max_completion_tokens."),
        (example(20, 16), sdft(template="multi_turn_twice"), "Shorten the example or choose a shorter template."),
        (
            example(20, 16),
            sdft(template="multi_turn_twice", max_completion_tokens=60),
            "Shorten the example or lower max_completion_tokens and choose a shorter template.",
        ),
    ],
)
def test_examples_that_do_not_fit_come_with_advice_that_works(http, counted_base, line, fields, hint):
    """Fault caught: who lowers max_completion_tokens as told gets the same refusal."""
    file_id = upload(http, b"\n".join([factories.TRAINING_LINES, line])).json()["id"]
    error = error_of(http.post(JOBS, json={"model": "tiny", "training_file": file_id} | fields), 400)
    assert error["message"].startswith("1 example does not fit tiny. Line 13: ")
    assert error["message"].endswith(hint)
    assert [finding["hint"] for finding in error["errors"]] == [hint]


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (example(70, 20), supervised()),
        (example(30, 29), {}),
        (example(20, 30), sdft(max_completion_tokens=30)),
        (example(10, 14), sdft(template="multi_turn_twice")),
    ],
)
def test_examples_that_fit_by_their_tokens_are_taken(http, counted_base, line, fields):
    file_id = upload(http, b"\n".join([factories.TRAINING_LINES, line])).json()["id"]
    response = http.post(JOBS, json={"model": "tiny", "training_file": file_id} | fields)
    assert response.status_code == 200, response.json()


def test_a_role_that_the_template_refuses_is_told(http, base):
    tool = [{"role": "user", "content": "q"}, {"role": "tool", "content": "r"}, {"role": "assistant", "content": "a"}]
    lines = [factories.TRAINING_LINES, json.dumps({"messages": tool}).encode()]
    file_id = upload(http, b"\n".join(lines)).json()["id"]
    error = error_of(http.post(JOBS, json={"model": "tiny", "training_file": file_id}), 400)
    assert (error["code"], error["param"]) == ("unrecognized_role", "training_file")
    assert "tool" in error["message"]


@pytest.mark.parametrize(
    ("params", "param", "said"),
    [
        ({"limit": 0}, "limit", "a whole number from 1 to 100"),
        ({"limit": -1}, "limit", "a whole number from 1 to 100"),
        ({"limit": 10**9}, "limit", "a whole number from 1 to 100"),
        ({"limit": "ten"}, "limit", "a whole number from 1 to 100"),
        ({"order": "up"}, "order", '"asc", "desc"'),
        ({"after": "ftjob-" + "0" * 32}, "after", "last item"),
        ({"after": "x" * 200}, "after", "at most 100 characters"),
        ({"befor": "x"}, "befor", "there are: after, limit, metadata, order"),
        ({"limits": "3"}, "limits", "did you mean limit?"),
        ({"limit[x]": "5"}, "limit[x]", "did you mean limit?"),
        ({"after[]": "x"}, "after[]", "not a parameter here"),
        ({"limit": ["1", "2"]}, "limit", "given twice"),
        ({"metadata[a]": ["1", "2"]}, "metadata[a]", "given twice"),
        ({"metadata": "null", "metadata[a]": "b"}, "metadata", "metadata=null"),
    ],
)
def test_a_bad_page_is_refused_with_what_there_is(http, params, param, said):
    error = error_of(http.get(JOBS, params=params), 400)
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    ("path", "maximum"),
    [("/v1/files", 10_000), ("/v1/adapters", 200), ("/v1/evaluations", 200)],
)
def test_every_list_names_its_range(http, path, maximum):
    for limit in (0, -1, 10**9):
        assert f"from 1 to {maximum}" in error_of(http.get(path, params={"limit": limit}), 400)["message"]
    assert http.get(path, params={"limit": maximum}).status_code == 200
    assert error_of(http.get(path, params={"after": "nothing"}), 400)["code"] == "unknown_cursor"
