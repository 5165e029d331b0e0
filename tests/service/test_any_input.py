"""Whatever is sent, the answer is one of ours: never a 500, never another body."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.conftest import error_of

NAMES = [
    "model", "training_file", "validation_file", "method", "hyperparameters", "suffix", "seed", "metadata",
    "integrations", "parent_adapter", "limits", "type", "sdft", "n_epochs", "rehearsal", "share", "max_seconds",
]  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["tiny", "auto", "sdft", "supervised", "dpo", "\0", "\ud800", "x:1", "ft:"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=5),
    max_leaves=12,
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6) | VALUES
HEADERS = {"Content-Type": "application/json"}
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


@SETTINGS
@given(BODIES)
def test_any_json_for_a_job(http, base, body):
    import json

    response = http.post("/v1/fine_tuning/jobs", content=json.dumps(body).encode(), headers=HEADERS)
    error = error_of(response, 400)
    assert error["type"] == "invalid_request_error"


@SETTINGS
@given(st.binary(max_size=60))
def test_any_bytes_for_a_job(http, base, body):
    error_of(http.post("/v1/fine_tuning/jobs", content=body, headers=HEADERS), 400)


ADDRESSES = st.sampled_from(
    [
        "/v1/files/",
        "/v1/fine_tuning/jobs/",
        "/v1/models/",
        "/v1/adapters/",
        "/v1/evaluations/",
        "/v1/adapters/a/versions/",
    ]
)


@SETTINGS
@given(ADDRESSES, st.binary(min_size=1, max_size=20), st.sampled_from(["GET", "DELETE", "POST"]))
def test_any_address(http, base, prefix, rest, verb):
    escaped = "".join(f"%{byte:02X}" for byte in rest)
    response = http.request(verb, prefix + escaped)
    assert response.status_code in {200, 400, 403, 404, 405}
    if response.status_code != 200:
        error_of(response, response.status_code)


@SETTINGS
@given(st.sampled_from(["after", "limit", "order", "purpose", "metadata", "metadata[k]"]), st.binary(max_size=20))
def test_any_query(http, base, name, value):
    escaped = "".join(f"%{byte:02X}" for byte in value)
    for path in ("/v1/files", "/v1/fine_tuning/jobs"):
        response = http.get(f"{path}?{name}={escaped}")
        if response.status_code != 200:
            error_of(response, 400)


@SETTINGS
@given(
    st.sampled_from(["Range", "If-Range", "If-None-Match", "Accept", "Idempotency-Key"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=30),
)
def test_any_header(http, base, file_id, name, value):
    response = http.get(f"/v1/files/{file_id}/content", headers={name: value.encode("latin-1")})
    assert response.status_code in {200, 206, 304, 416}
