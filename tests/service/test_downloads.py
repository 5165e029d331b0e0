"""Bytes on their way out: parts, digests, and what a client has already."""

import random

import pytest
from starlette.testclient import TestClient

from app.storage.store import CorruptBlob
from tests import factories
from tests.service.conftest import error_of

CONTENT = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def version(session, project, store):
    row = factories.make_version(
        session, project=project, store=store, files={"adapter_model.safetensors": CONTENT, "README.md": b"card"}
    )
    archive = factories.make_blob(session, CONTENT, store=store)
    file = session.get_one(factories.models.File, row.archive_file_id)
    file.sha256, file.num_bytes, file.filename = archive.sha256, archive.num_bytes, "skill-v1.tar"
    session.commit()
    return row


@pytest.fixture
def name(session, version):
    return session.get_one(factories.models.Adapter, version.adapter_id).name


@pytest.fixture(params=["archive", "file", "content"])
def address(request, version, name):
    """The three routes that bytes leave by."""
    folder = f"/v1/adapters/{name}/versions/1"
    return {
        "archive": f"{folder}/archive",
        "file": f"{folder}/files/adapter_model.safetensors",
        "content": f"/v1/files/{version.archive_file_id}/content",
    }[request.param]


@pytest.fixture
def etag(session, version):
    file = session.get_one(factories.models.File, version.archive_file_id)
    return f'"sha256:{file.sha256}"'


def test_the_whole_is_named_by_its_digest(http, address, etag):
    response = http.get(address)
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["etag"] == etag
    assert response.headers["accept-ranges"] == "bytes"
    assert response.headers["content-length"] == str(len(CONTENT))
    assert response.headers["content-disposition"].startswith("attachment; filename*=UTF-8''")


def test_head_is_get_without_the_bytes(http, address):
    head, got = http.head(address), http.get(address)
    assert (head.status_code, head.content) == (200, b"")
    for header in ("etag", "accept-ranges", "content-length", "content-type", "content-disposition"):
        assert head.headers[header] == got.headers[header]


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=2999990-", 2_999_990, 3_000_000),
        ("bytes=-10", 2_999_990, 3_000_000),
        ("bytes=-99999999", 0, 3_000_000),
        ("bytes=0-", 0, 3_000_000),
        ("bytes=5-99999999999", 5, 3_000_000),
        ("bytes=1048570-1048590", 1_048_570, 1_048_591),
    ],
)
def test_a_part_is_sent_alone(http, address, asked, start, end):
    response = http.get(address, headers={"Range": asked})
    assert (response.status_code, response.content) == (206, CONTENT[start:end])
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert response.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=3000000-", "bytes=99999999-999999999", "bytes=-0"])
def test_a_part_after_the_end_is_refused_with_the_length(http, address, asked):
    response = http.get(address, headers={"Range": asked})
    assert error_of(response, 416)["code"] == "range_not_satisfiable"
    assert response.headers["content-range"] == f"bytes */{len(CONTENT)}"


@pytest.mark.parametrize(
    "asked", ["bytes=5-1", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=" + "9" * 30 + "-"]
)
def test_what_is_no_single_range_gets_the_whole(http, address, asked):
    response = http.get(address, headers={"Range": asked})
    assert (response.status_code, len(response.content)) == (200, len(CONTENT))


def test_a_cut_download_goes_on_only_with_the_same_bytes(http, address, etag):
    part = http.get(address, headers={"Range": "bytes=100-", "If-Range": etag})
    assert (part.status_code, CONTENT[:100] + part.content) == (206, CONTENT)
    for stale in ('"sha256:0"', f"W/{etag}", "Tue, 24 Nov 2026 00:00:00 GMT"):
        whole = http.get(address, headers={"Range": "bytes=100-", "If-Range": stale})
        assert (whole.status_code, len(whole.content)) == (200, len(CONTENT))


@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_who_has_the_bytes_is_not_sent_them(http, address, etag, verb):
    for named in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        response = http.request(verb, address, headers={"If-None-Match": named})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
    assert http.get(address, headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("verb", ["GET", "HEAD"])
def test_who_goes_on_with_other_bytes_is_told(http, address, etag, verb):
    """Fault caught: a download by alias went on with another version's bytes after the alias had moved."""

    def ask(*tags):
        return http.request(verb, address, headers=[("If-Match", tag) for tag in tags])

    assert ask('"sha256:0"').status_code == ask(f"W/{etag}").status_code == 412
    assert ask(etag).status_code == ask("*").status_code == ask('"sha256:0"', etag).status_code == 200
    error = error_of(http.get(address, headers={"If-Match": '"sha256:0"', "Range": "bytes=1-2"}), 412)
    assert (error["code"], error["param"]) == ("content_changed", "If-Match")


def test_downloads_cut_anywhere_can_be_put_together(http, address, etag):
    cuts = random.Random(2)
    got = b""
    while len(got) < len(CONTENT):
        end = len(got) + cuts.randrange(1, 700_000)
        headers = {"Range": f"bytes={len(got)}-{end - 1}", "If-Range": etag}
        got += http.get(address, headers=headers).content
    assert got == CONTENT


def test_corrupt_bytes_are_never_served_as_whole(*, http, app, version, address, store, session):
    sha256 = session.get_one(factories.models.File, version.archive_file_id).sha256
    [path] = store._root.glob(f"blobs/*/{sha256}")
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(CorruptBlob):
        TestClient(app, headers=http.headers).get(address)
    path.write_bytes(CONTENT[:-1])
    assert error_of(http.get(address), 500)["code"] == "internal_error"
    path.unlink()
    assert error_of(http.get(address), 500)["code"] == "internal_error"


@pytest.mark.parametrize(
    "path",
    [
        "nothing",
        "../README.md",
        "..%2Fx",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "README.md/",
        "readme.md",
        "a\\b",
        "x" * 3000,
    ],
)
def test_only_the_files_of_the_folder_are_there(http, name, path):
    response = http.get(f"/v1/adapters/{name}/versions/1/files/{path}")
    assert error_of(response, 404)


def test_a_file_has_its_own_name_and_bytes(http, name):
    response = http.get(f"/v1/adapters/{name}/versions/1/files/README.md")
    assert response.content == b"card"
    assert response.headers["content-disposition"].endswith("README.md")
