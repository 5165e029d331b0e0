"""What happens before anything of a body is read."""

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, ProgrammingError
from starlette.routing import Route

from app.db.models import ApiKey, File, Job
from app.db.session import transaction
from app.services import access
from tests.service.conftest import error_of, make_app, make_tenant, upload

OPEN = {"/healthz", "/readyz", "/openapi.json", "/docs"}


def routes(app):
    """Every path with every verb that it takes, as the running application knows them."""
    document = app.openapi()
    listed = [(path, verb.upper()) for path, verbs in document["paths"].items() for verb in verbs]
    return [*listed, *((route.path, "GET") for route in app.routes if type(route) is Route)]


def bad_keys(secret):
    yield {}
    for value in ("", "Bearer", f"Basic {secret}", f"Bearer {secret[:-1]}", f"Bearer {secret}x", "Bearer sk-sdft-x"):
        yield {"Authorization": value}
    other = f"{secret[:50]}{'A' if secret[50] != 'A' else 'B'}{secret[51:]}"
    yield {"Authorization": f"Bearer {other}"}
    yield {"Authorization": b"Bearer \xff\xfe"}


def test_no_route_but_the_open_ones_answers_without_a_key(app, anonymous, tenant):
    asked = routes(app)
    assert len(asked) > 20
    for path, verb in asked:
        response = anonymous.request(verb, path.replace("{", "").replace("}", ""))
        if path in OPEN:
            assert response.status_code in (200, 503), path
        else:
            assert error_of(response, 401)["type"] == "authentication_error", (verb, path)
            assert response.headers["www-authenticate"] == "Bearer"


def test_no_wrong_key_is_let_in(anonymous, tenant):
    for headers in bad_keys(tenant.secret):
        assert error_of(anonymous.get("/v1/files", headers=headers), 401)
    assert anonymous.get("/v1/files", headers={"Authorization": f"bearer {tenant.secret}"}).status_code == 200


def test_a_key_with_a_right_checksum_and_a_wrong_secret_is_unknown(anonymous, tenant):
    body = tenant.secret.rpartition("-")[0]
    forged = f"{body[:-1]}{'A' if body[-1] != 'A' else 'B'}"
    headers = {"Authorization": f"Bearer {forged}-{access._checksum(forged)}"}
    assert error_of(anonymous.get("/v1/files", headers=headers), 401)["code"] == "invalid_api_key"


def test_a_revoked_key_is_refused(http, sessions):
    with transaction(sessions) as session:
        [(key, _)] = access.list_keys(session)
        access.revoke_key(session, key.id)
    assert error_of(http.get("/v1/files"), 401)["code"] == "revoked_api_key"


def test_an_expired_key_is_refused(anonymous, sessions, app):
    with transaction(sessions) as session:
        past = datetime.now(UTC) - timedelta(seconds=1)
        secret = access.create_key(session, project="acme", name="old", expires_at=past).secret
    response = anonymous.get("/v1/files", headers={"Authorization": f"Bearer {secret}"})
    assert error_of(response, 401)["code"] == "expired_api_key"


def test_only_the_digest_of_a_key_is_kept(tenant, session):
    [row] = session.query(ApiKey)
    kept = {column.name: getattr(row, column.name) for column in ApiKey.__table__.columns}
    assert tenant.secret not in str(kept)
    assert tenant.secret.split("-", 3)[3] not in str(kept)


def test_the_use_of_a_key_is_noted_at_most_once_a_minute(http, sessions):
    def last_used():
        with transaction(sessions) as session:
            return session.query(ApiKey).one().last_used_at

    assert last_used() is None
    http.get("/v1/files")
    first = last_used()
    http.get("/v1/files")
    assert last_used() == first is not None
    with transaction(sessions) as session:
        session.query(ApiKey).one().last_used_at = first - timedelta(seconds=61)
    http.get("/v1/files")
    assert last_used() >= first


def serve(app, path, *, headers, chunks):
    """One POST by hand, counting what the application reads of it."""
    read, sent = [], []
    body = iter(chunks)

    async def receive():
        chunk = next(body, None)
        read.append(len(chunk or b""))
        return {"type": "http.request", "body": chunk or b"", "more_body": chunk is not None}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "root_path": "",
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], sum(read)


FORM = {"Content-Type": "multipart/form-data; boundary=b0"}


@pytest.mark.parametrize("path", ["/v1/files", "/v1/fine_tuning/jobs", "/v1/anything"])
def test_nothing_of_a_body_is_read_without_a_key(app, store, path, tenant):
    chunks = (b"x" * 65536 for _ in range(300 * 16))  # 300 MB
    assert serve(app, path, headers=FORM, chunks=chunks) == (401, 0)
    assert not list(store.staging.iterdir())


def test_nothing_of_a_body_is_read_that_says_it_is_too_long(app, store, tenant, settings):
    headers = FORM | {"Authorization": f"Bearer {tenant.secret}", "Content-Length": str(600 * 1024 * 1024)}
    assert serve(app, "/v1/files", headers=headers, chunks=iter(())) == (413, 0)
    file = tenant.http.post("/v1/files", content=b"", headers=headers)
    assert error_of(file, 413)["code"] == "file_too_large"
    headers["Content-Length"] = str(settings.limits.json_bytes + 1)
    assert serve(app, "/v1/fine_tuning/jobs", headers=headers, chunks=iter(())) == (413, 0)
    assert not list(store.staging.iterdir())


def test_a_json_body_is_read_up_to_its_limit_and_no_further(app, tenant, settings):
    headers = {"Authorization": f"Bearer {tenant.secret}", "Content-Type": "application/json"}
    status, read = serve(app, "/v1/fine_tuning/jobs", headers=headers, chunks=(b" " * 65536 for _ in range(4800)))
    assert status == 413
    assert read <= settings.limits.json_bytes + 65536


def test_only_plain_bodies_are_taken(http):
    response = http.post("/v1/fine_tuning/jobs", content=b"x", headers={"Content-Encoding": "gzip"})
    assert error_of(response, 415)["code"] == "unsupported_content_encoding"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/file-%00",
        "/v1/files?after=%00",
        "/v1/models/%00",
        "/v1/models?%00=1",
        "/v1/adapters/a%00b/versions/1",
    ],
)
def test_a_nul_in_an_address_is_refused(http, path):
    assert error_of(http.get(path), 400)["code"] == "bad_encoding"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/file-%FF",
        "/v1/files/%ED%A0%80",
        "/v1/files/..%2F..%2Fetc%2Fpasswd",
        "/v1/fine_tuning/jobs/ftjob-" + "0" * 32 + "%0A",
        "/v1/models/%ED%A0%80",
        "/v1/adapters/..",
        "/v1/adapters/a/versions/99999999999999999999",
        "/v1/adapters/a/versions/-1",
        "/v1/evaluations/" + "x" * 5000,
        "/v1/nothing",
        "/v1/files/",
        "/",
    ],
)
def test_what_is_not_there_is_not_found(http, path):
    assert error_of(http.get(path), 404)["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("PUT", "/v1/files", "GET, POST"),
        ("PATCH", "/v1/models/x", "DELETE, GET"),
        ("DELETE", "/v1/adapters/x", "GET"),
        ("POST", "/v1/files/x/content", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        *(
            (verb, path, "GET, HEAD")
            for verb in ("POST", "PUT", "DELETE", "OPTIONS")
            for path in ("/docs", "/openapi.json")
        ),
    ],
)
def test_other_verbs_are_refused_with_those_that_there_are(*, http, verb, path, allowed):
    response = http.request(verb, path)
    assert error_of(response, 405)["code"] == "method_not_allowed"
    assert ", ".join(sorted(response.headers["allow"].split(", "))) == allowed


def test_the_docs_load_nothing_from_elsewhere(anonymous):
    """Keys are typed into that page, and it is to work where there is no internet."""
    page = anonymous.get("/docs")
    loaded = re.findall(r'<(?:script|link)[^>]* (?:src|href)="(?!data:)([^"]+)"', page.text)
    assert len(loaded) == 2
    for name in loaded:
        assert anonymous.get(f"/{name}").status_code == 200
    assert "https:" not in page.text
    assert "default-src 'none'; script-src 'self' 'sha256-" in page.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/docs/nothing.js", "/docs/%2e%2e/__init__.py", "/docs/"])
def test_below_the_docs_there_is_nothing_else(anonymous, path):
    assert anonymous.get(path).status_code == 404


def test_every_answer_has_an_id_and_is_neither_guessed_nor_kept(http, anonymous):
    for response in (http.get("/v1/files"), http.get("/v1/x"), anonymous.get("/v1/files"), anonymous.get("/healthz")):
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"


def test_a_bug_says_nothing_of_the_inside(http, app, monkeypatch):
    from app.services import files

    def broken(*_, **__):
        raise RuntimeError("/secret/path and sk-sdft-canary")

    monkeypatch.setattr(files, "list_files", broken)
    response = http.get("/v1/files")
    error = error_of(response, 500)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "secret" not in response.text
    assert "canary" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("where", ["key", "endpoint"])
def test_a_database_that_is_away_is_a_reason_to_try_again(http, monkeypatch, where):
    from app.api import admission
    from app.services import files

    def away(*_, **__):
        raise OperationalError("SELECT 1", {}, Exception("connection refused at 10.0.0.1"))

    monkeypatch.setattr(*((admission, "authenticate") if where == "key" else (files, "list_files")), away)
    response = http.get("/v1/files")
    assert error_of(response, 503)["code"] == "database_busy"
    assert response.headers["retry-after"]
    assert "10.0.0.1" not in response.text


@pytest.fixture
def committed_http(committed_sessions, store, broker, settings):
    """Each request has a connection of its own, which it may lose."""
    return make_tenant(make_app(committed_sessions, store, broker, settings), committed_sessions, "acme").http


@pytest.mark.parametrize("where", ["key", "endpoint"])
def test_a_transaction_that_postgres_ended_for_being_idle_is_a_reason_to_try_again(
    committed_http, committed_sessions, monkeypatch, where
):
    from app.api import admission
    from app.services import files

    module, name = (admission, "authenticate") if where == "key" else (files, "list_files")
    action = getattr(module, name)

    def after_a_pause(session, *args, **kwargs):
        backend = session.scalar(text("SELECT pg_backend_pid()"))
        session.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10ms'"))
        with committed_sessions() as other:
            still_there = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
            while other.scalar(still_there, {"pid": backend}):
                other.rollback()  # one transaction sees one state of the activity
                time.sleep(0.01)
        return action(session, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, after_a_pause)
        response = committed_http.get("/v1/files")
    assert error_of(response, 503)["code"] == "database_busy"
    assert response.headers["retry-after"]
    assert committed_http.get("/v1/files").status_code == 200


@pytest.mark.parametrize("where", ["key", "endpoint"])
def test_another_misuse_of_a_transaction_is_a_bug(committed_http, monkeypatch, where):
    from app.api import admission
    from app.services import files

    def goes_on_after_an_error(session, *_, **__):
        connection = session.connection()
        with pytest.raises(ProgrammingError):
            connection.exec_driver_sql("SELECT no_such_column")
        connection.exec_driver_sql("SELECT 1")

    module, name = (admission, "authenticate") if where == "key" else (files, "list_files")
    monkeypatch.setattr(module, name, goes_on_after_an_error)
    assert error_of(committed_http.get("/v1/files"), 500)["code"] == "internal_error"


def test_a_refused_upload_leaves_no_row(anonymous, sessions):
    assert error_of(upload(anonymous), 401)
    with transaction(sessions) as session:
        assert session.query(File).count() == session.query(Job).count() == 0
