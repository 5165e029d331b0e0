import pytest

from app.db.models import Blob, File
from app.db.session import transaction
from app.domain.errors import NotFound
from app.services import files
from tests import factories
from tests.service.conftest import error_of, upload


def test_an_upload_is_kept_whole_and_can_be_read_back(http, store):
    response = upload(http)
    assert response.status_code == 200
    file = response.json()
    assert file["id"].startswith("file-")
    shown = {key: file[key] for key in ("object", "bytes", "filename", "purpose", "status")}
    assert shown == {
        "object": "file",
        "bytes": len(factories.TRAINING_LINES),
        "filename": "train.jsonl",
        "purpose": "fine-tune",
        "status": "processed",
    }
    assert http.get(f"/v1/files/{file['id']}").json() == file
    assert http.get(f"/v1/files/{file['id']}/content").content == factories.TRAINING_LINES
    assert not list(store.staging.iterdir())


def test_the_name_of_a_file_may_be_in_any_script(http):
    file = upload(http, filename="données 数据; 1.jsonl").json()
    content = http.get(f"/v1/files/{file['id']}/content")
    assert file["filename"] == "données 数据; 1.jsonl"
    assert content.headers["content-disposition"].startswith("attachment; filename*=UTF-8''donn%C3%A9es")


def test_a_quote_in_the_name_of_a_file_is_kept(http):
    """Fault caught: it was kept as clients have to send it."""
    file = upload(http, filename='so "called".jsonl').json()
    assert file["filename"] == 'so "called".jsonl'
    assert http.get(f"/v1/files/{file['id']}").json() == file


def test_the_validation_report_counts_tokens_of_each_base(http, session, store):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "Say": 1, "It": 2, "is": 3}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = factories.make_blob(session, words.to_str().encode(), store=store)
    overheads = {"conversation": 10, "system": 1, "message": {"user": 5, "assistant": 5}}
    factories.make_base_model(session, tokenizer_sha256=tokenizer.sha256, overheads=overheads)
    session.commit()
    file = upload(http, factories.TRAINING_LINES + b"\n" + factories.TRAINING_LINES.partition(b"\n")[0]).json()

    report = http.get(f"/v1/files/{file['id']}/validation").json()
    assert (report["valid"], report["n_examples"], report["errors"]) == (True, 13, [])
    [warning] = report["warnings"]
    assert (warning["code"], warning["line"]) == ("duplicate_example", 13)
    tokens = report["stats"]["tokens"]["tiny"]
    assert tokens["n_counted"] == 13
    assert (tokens["prompt"]["min"], tokens["prompt"]["max"]) == (17, 17)  # 10 + 5 + "Say", "7"
    assert tokens["demonstration"]["p50"] == 4  # "It", "is", "7", "."
    assert tokens["demonstration"]["histogram"] == [{"up_to": 4, "count": 13}]


def test_results_of_jobs_have_no_validation_report(http, session, project):
    file = factories.make_file(session, project, purpose="fine-tune-results")
    session.commit()
    assert error_of(http.get(f"/v1/files/{file.id}/validation"), 400)["code"] == "not_a_training_file"


def test_files_are_listed_newest_first_by_page_and_purpose(http, session, project):
    ids = [upload(http).json()["id"] for _ in range(3)]
    result = factories.make_file(session, project, purpose="fine-tune-results")
    session.commit()

    first = http.get("/v1/files", params={"limit": 2, "purpose": "fine-tune"}).json()
    assert [file["id"] for file in first["data"]] == [ids[2], ids[1]]
    assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[2], ids[1], True)
    rest = http.get("/v1/files", params={"limit": 2, "purpose": "fine-tune", "after": first["last_id"]}).json()
    assert ([file["id"] for file in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    oldest = http.get("/v1/files", params={"order": "asc"}).json()
    assert [file["id"] for file in oldest["data"]] == [*ids, result.id]


def test_a_list_is_asked_for_a_purpose_that_there_is(http, file_id):
    """OpenAI's other purposes are known, and there are no files of them."""
    for purpose, found in (("fine-tune", [file_id]), ("evals", []), ("fine-tune-results", []), ("assistants", [])):
        listed = http.get("/v1/files", params={"purpose": purpose}).json()["data"]
        assert [file["id"] for file in listed] == found
    error = error_of(http.get("/v1/files", params={"purpose": "fine_tune"}), 400)
    assert (error["code"], error["param"]) == ("invalid_value", "purpose")
    assert '"fine-tune", "evals"' in error["message"]


def test_pages_are_stable_while_rows_come_and_go(http, session, project):
    ids = [upload(http).json()["id"] for _ in range(9)]
    seen, after = [], None
    while True:
        page = http.get("/v1/files", params={"limit": 3} | ({"after": after} if after else {})).json()
        seen += [file["id"] for file in page["data"]]
        if not page["has_more"]:
            break
        after = page["last_id"]
        upload(http)
        http.delete(f"/v1/files/{after}")  # the cursor itself goes
    assert seen == ids[::-1]


def test_a_deleted_file_is_gone_for_every_route(http, file_id):
    assert http.delete(f"/v1/files/{file_id}").json() == {"id": file_id, "object": "file", "deleted": True}
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content", f"/v1/files/{file_id}/validation"):
        assert error_of(http.get(path), 404)["code"] == "file_not_found"
    assert error_of(http.delete(f"/v1/files/{file_id}"), 404)
    assert http.get("/v1/files").json()["data"] == []


@pytest.mark.parametrize("column", ["training_file_id", "validation_file_id"])
@pytest.mark.parametrize("status", ["queued", "running"])
def test_a_file_that_an_unfinished_job_needs_is_not_deleted(http, session, project, column, status):
    file = factories.make_file(session, project)
    job = factories.make_job(session, status, project=project, **{column: file.id})
    session.commit()
    response = http.delete(f"/v1/files/{file.id}")
    error = error_of(response, 409)
    assert error["code"] == "file_in_use"
    assert job.id in error["message"]
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("status", "answer"), [("queued", 409), ("running", 409), ("succeeded", 200)])
def test_a_file_that_a_job_rehearses_stays_as_long_as_the_job_lives(http, session, project, status, answer):
    file = factories.make_file(session, project)
    rehearsal = {"rehearsal": {"share": 0.5, "prompts": "file", "file": file.id}}
    factories.make_job(session, status, project=project, hyperparameters=rehearsal)
    session.commit()
    assert http.delete(f"/v1/files/{file.id}").status_code == answer


def test_a_file_of_a_finished_job_can_be_deleted(http, session, project):
    file = factories.make_file(session, project)
    factories.make_job(session, "succeeded", project=project, training_file=file)
    session.commit()
    assert http.delete(f"/v1/files/{file.id}").status_code == 200


def test_what_an_earlier_version_was_trained_on_stays_while_a_job_goes_on_from_it(http, session, project):
    """Fault caught: an attempt that is resumed rehearses other prompts than the one before it."""
    file = factories.make_file(session, project)
    first = factories.make_version(
        session, project=project, job=factories.make_job(session, "succeeded", project=project, training_file=file)
    )
    line = session.get_one(factories.models.Adapter, first.adapter_id)
    second = factories.make_version(session, project=project, adapter=line, version=2, parent_version_id=first.id)
    job = factories.make_job(session, "queued", project=project, parent_version_id=second.id)
    session.commit()
    error = error_of(http.delete(f"/v1/files/{file.id}"), 409)
    assert (error["code"], job.id in error["message"]) == ("file_in_use", True)
    http.post(f"/v1/fine_tuning/jobs/{job.id}/cancel")
    assert http.delete(f"/v1/files/{file.id}").status_code == 200


def test_the_archive_of_a_version_goes_only_with_its_model(http, session, project):
    version = factories.make_version(session, project=project)
    session.commit()
    assert error_of(http.delete(f"/v1/files/{version.archive_file_id}"), 409)["code"] == "file_in_use"
    assert http.delete(f"/v1/models/{version.model_id}").status_code == 200
    assert http.delete(f"/v1/files/{version.archive_file_id}").status_code == 200


def test_a_checkpoint_that_a_job_may_go_on_from_is_not_deleted(http, session, project):
    checkpoint = factories.make_checkpoint(session, factories.make_job(session, "running", project=project), 5)
    session.commit()
    assert error_of(http.delete(f"/v1/files/{checkpoint.adapter_file_id}"), 409)["code"] == "file_in_use"


BOUNDARY = "b0"
PURPOSE = b'--b0\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
FILE = (
    b'--b0\r\nContent-Disposition: form-data; name="file"; filename="t.jsonl"\r\n\r\n%s\r\n' % factories.TRAINING_LINES
)
END = b"--b0--\r\n"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_multipart", None),
        (b"nonsense", 400, "invalid_multipart", None),
        (PURPOSE + FILE, 400, "invalid_multipart", None),
        (PURPOSE + FILE[:-20], 400, "invalid_multipart", None),
        (PURPOSE + END, 400, "missing_required_parameter", "file"),
        (FILE + END, 400, "missing_required_parameter", "purpose"),
        (PURPOSE + PURPOSE + FILE + END, 400, "invalid_value", "purpose"),
        (PURPOSE + FILE + FILE + END, 400, "invalid_value", "file"),
        (PURPOSE.replace(b"fine-tune", b"assistants") + FILE + END, 400, "invalid_value", "purpose"),
        (PURPOSE.replace(b"fine-tune", b"fine\0tune") + FILE + END, 400, "bad_encoding", "purpose"),
        (PURPOSE.replace(b"fine-tune", b"fine\xfftune") + FILE + END, 400, "bad_encoding", "purpose"),
        (PURPOSE.replace(b"fine-tune", b"x" * 70_000) + FILE + END, 413, "field_too_large", "purpose"),
        (PURPOSE.replace(b"purpose", b"purpos") + FILE + END, 400, "unknown_parameter", "purpos"),
        (PURPOSE.replace(b'"purpose"', b'"expires_after[seconds]"') + FILE + END, 400, "unknown_parameter", None),
        (PURPOSE + FILE.replace(b'; filename="t.jsonl"', b"") + END, 400, "invalid_value", "file"),
        (PURPOSE + FILE.replace(b"t.jsonl", b"t\x01.jsonl") + END, 400, "invalid_value", "file"),
        (PURPOSE + FILE.replace(b"t.jsonl", "t\x9b.jsonl".encode()) + END, 400, "invalid_value", "file"),
        (PURPOSE + FILE.replace(b"t.jsonl", "t\u202elnosj.jsonl".encode()) + END, 400, "invalid_value", "file"),
        (PURPOSE + FILE.replace(b"t.jsonl", " \u200b".encode()) + END, 400, "invalid_value", "file"),
        (PURPOSE + FILE.replace(b"t.jsonl", b"t" * 300) + END, 400, "invalid_value", "file"),
        (PURPOSE + FILE.replace(b"t.jsonl", b"t\xff.jsonl") + END, 400, "bad_encoding", "file"),
    ],
)
def test_a_malformed_upload_is_refused_and_leaves_nothing(*, http, sessions, store, body, status, code, param):
    response = http.post(
        "/v1/files", content=body, headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    )
    error = error_of(response, status)
    assert error["code"] == code
    assert param is None or error["param"] == param
    assert not list(store.staging.iterdir())
    with transaction(sessions) as session:
        assert session.query(File).count() == session.query(Blob).count() == 0


def test_the_parts_of_an_upload_may_come_in_any_order_and_in_any_pieces(http):
    body = FILE + PURPOSE + END
    pieces = (body[index : index + 7] for index in range(0, len(body), 7))
    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    file = http.post("/v1/files", content=pieces, headers=headers).json()
    assert http.get(f"/v1/files/{file['id']}/content").content == factories.TRAINING_LINES


def test_a_boundary_that_is_too_long_is_refused(http, store):
    """Fault caught: it was an error of ours."""
    headers = {"Content-Type": f"multipart/form-data; boundary={'b' * 300}"}
    error = error_of(http.post("/v1/files", content=PURPOSE + FILE + END, headers=headers), 400)
    assert error["code"] == "invalid_multipart"
    assert not list(store.staging.iterdir())


def test_only_a_form_is_an_upload(http):
    response = http.post("/v1/files", json={"file": "x", "purpose": "fine-tune"})
    assert error_of(response, 415)["code"] == "unsupported_media_type"


def test_a_file_over_the_limit_is_refused_even_without_a_length(http, store, settings):
    def body():
        yield PURPOSE + FILE[:100]
        for _ in range(settings.limits.upload_bytes // 65536 + 1):
            yield b"x" * 65536
        yield b"\r\n" + END

    headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    error = error_of(http.post("/v1/files", content=body(), headers=headers), 413)
    assert error["code"] == "file_too_large"
    assert not list(store.staging.iterdir())


def test_of_two_who_delete_a_file_at_once_one_did(committed_sessions):
    """Fault caught: whoever had read it before the other was done deleted it a second time."""
    with transaction(committed_sessions) as session:
        project = factories.make_project(session)
        file = factories.make_file(session, project)
    with transaction(committed_sessions) as late:
        files.get(late, project.id, file.id)
        with transaction(committed_sessions) as early:
            files.delete(early, project.id, file.id)
        with pytest.raises(NotFound):
            files.delete(late, project.id, file.id)
