"""Data files from flaky mirrors: the right one under its name, or none and a message that helps."""

import errno
import gzip
import hashlib
import inspect
import json
import shutil
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import gdown
import pytest
from flaky_server import COMMIT, Server, altered, closed_url, cut, instead, serving, status

from malmen.__main__ import app
from malmen.data.downloads import download as downloads
from malmen.data.downloads.download import download, record_of
from malmen.data.downloads.table import Rebuild, Source, Version, sources
from malmen.support.errors import InputError
from malmen.support.files import git_blob_id, read_json
from malmen.support.retries import ATTEMPTS, LONGEST_WAIT

NAME = "rows.json"
CONTENT = json.dumps([{"src": f"Who is number {i}?", "ans": str(i)} for i in range(2000)]).encode()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MIRRORS = ("/first/rows.json", "/second/rows.json")


@pytest.fixture
def server():
    with serving() as server:
        for path in MIRRORS:
            server.files[path] = CONTENT
        yield server


def source_of(*mirrors: str, name: str = NAME, sha256: str = SHA256, **fields) -> Source:
    return Source(
        name=name,
        what="Rows",
        licence="MIT",
        mirrors=mirrors,
        versions=(Version(by="someone", sha256=sha256),),
        **fields,
    )


class Place:
    """Where a test downloads to."""

    def __init__(self, folder: Path) -> None:
        self.downloads = folder / "downloads"
        self.out = folder / "data" / NAME

    def fetch(self, *files: Source) -> Path:
        table = {source.name: source for source in files}
        download(files[0].name, downloads=self.downloads, out=self.out, table=table)
        return self.out

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.downloads.iterdir() if path.suffix != ".lock")

    def fail(self, *files: Source) -> str:
        with pytest.raises(InputError) as failure:
            self.fetch(*files)
        assert not self.out.parent.exists()
        assert not (self.downloads / NAME).exists()
        return str(failure.value)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def ranges(server: Server, path: str) -> list[str]:
    return [asked for name, asked in server.asked if name == path]


def test_a_file_arrives_with_its_record(server: Server, place: Place) -> None:
    mirror = server.url + MIRRORS[0]
    out = place.fetch(source_of(mirror))
    assert out.read_bytes() == CONTENT
    assert read_json(record_of(out)) == {
        "file": NAME,
        "from": mirror,
        "what": "Rows",
        "licence": "MIT",
        "sha256": SHA256,
    }
    assert sorted(path.name for path in out.parent.iterdir()) == [NAME, record_of(out).name]
    assert place.kept() == [NAME, f"{NAME}.source.json"]
    record = read_json(record_of(out))
    place.fetch(source_of(closed_url()))  # what is there is not downloaded again
    assert read_json(record_of(out)) == record


def test_the_name_that_git_gives_a_content_identifies_it(
    server: Server, place: Place, tmp_path: Path
) -> None:
    (tmp_path / "content").write_bytes(CONTENT)
    blob = Version(by="git", git_blob=git_blob_id(tmp_path / "content"))
    source = Source(
        name=NAME, what="", licence="", mirrors=(server.url + MIRRORS[0],), versions=(blob,)
    )
    assert place.fetch(source).read_bytes() == CONTENT


def test_a_cut_connection_goes_on_where_it_was(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    server.faults[MIRRORS[0]] = [cut(1000), cut(1500), status(503)]
    place.fetch(source_of(server.url + MIRRORS[0]))
    assert ranges(server, MIRRORS[0]) == ["", "bytes=1000-", "bytes=1500-", "bytes=1500-"]
    assert sleeps == sorted(sleeps)
    assert len(sleeps) == 3


def test_a_run_that_ended_half_way_goes_on_where_it_was(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    server.faults[MIRRORS[0]] = [cut(1000)] + [status(503)] * (ATTEMPTS - 1)
    place.fail(source_of(server.url + MIRRORS[0]))
    server.asked.clear()
    place.fetch(source_of(server.url + MIRRORS[0]))
    assert ranges(server, MIRRORS[0]) == ["bytes=1000-"]


def test_a_server_without_ranges_starts_again(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    def whole(handler, content):
        handler.headers.replace_header("Range", "none")
        handler.answer(content)

    server.faults[MIRRORS[0]] = [cut(1000), whole]
    assert place.fetch(source_of(server.url + MIRRORS[0])).read_bytes() == CONTENT


def test_a_beginning_of_another_content_is_given_up(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    other = b"?" * (len(CONTENT) + 9)
    for begun in (other[:1000], other):  # shorter and longer than what the server has
        server.files[MIRRORS[0]] = other
        server.faults[MIRRORS[0]] = [cut(len(begun))] + [status(503)] * (ATTEMPTS - 1)
        place.fail(source_of(server.url + MIRRORS[0]))
        server.files[MIRRORS[0]] = CONTENT
        assert place.fetch(source_of(server.url + MIRRORS[0])).read_bytes() == CONTENT
        for folder in (place.out.parent, place.downloads):
            shutil.rmtree(folder)


def test_pieces_of_two_mirrors_are_never_joined(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    server.faults[MIRRORS[0]] = [cut(1000)] + [status(500)] * (ATTEMPTS - 1)
    place.fetch(source_of(*(server.url + path for path in MIRRORS)))
    assert ranges(server, MIRRORS[1]) == [""]


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_missing_file_leads_to_the_next_mirror_at_once(
    server: Server, place: Place, sleeps: list[float], code: int
) -> None:
    server.faults[MIRRORS[0]] = [status(code)]
    out = place.fetch(source_of(*(server.url + path for path in MIRRORS)))
    assert read_json(record_of(out))["from"] == server.url + MIRRORS[1]
    assert not sleeps


def test_a_server_is_left_alone_for_as_long_as_it_says(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server.faults[MIRRORS[0]] = [status(429, Retry_After="77"), status(503, Retry_After=later)]
    place.fetch(source_of(server.url + MIRRORS[0]))
    assert sleeps[0] == 77
    assert 90 < sleeps[1] <= 100


def test_a_server_that_wants_to_be_left_alone_for_long_is(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    server.faults[MIRRORS[0]] = [status(429, Retry_After=str(int(LONGEST_WAIT) + 1))]
    out = place.fetch(source_of(*(server.url + path for path in MIRRORS)))
    assert read_json(record_of(out))["from"] == server.url + MIRRORS[1]
    assert not sleeps


@pytest.mark.parametrize("fault", [altered, cut(len(CONTENT) - 1), instead(b"<html>Sorry</html>")])
def test_a_corrupted_file_is_fetched_again(
    server: Server, place: Place, sleeps: list[float], fault
) -> None:
    server.faults[MIRRORS[0]] = [fault]
    assert place.fetch(source_of(server.url + MIRRORS[0])).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), PermissionError(errno.EACCES, "No", "a")]
)
def test_a_full_disk_is_not_blamed_on_the_mirrors(
    place: Place, sleeps: list[float], monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def transfer(mirror: str, part: Path) -> None:
        raise error

    monkeypatch.setattr(downloads, "transfer", transfer)
    with pytest.raises(OSError, match="No") as failure:
        place.fetch(source_of("https://example.org/one", "https://example.org/two"))
    assert failure.value is error
    assert not sleeps


def test_a_file_without_a_digest_is_taken_with_a_warning(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.downloads.mkdir()
    (place.downloads / NAME).write_bytes(CONTENT)
    place.fetch(Source(name=NAME, what="", licence="", mirrors=("hf://a/b@main/c",)))
    assert "taken as it is, since no digest of it is known" in caplog.text


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (altered, "none that is known"),
        (instead(CONTENT[:-2]), "none that is known"),
        (instead(b""), "none that is known"),
        (instead(gzip.compress(CONTENT)[:-99], Content_Encoding="gzip"), "none that is known"),
        (instead(b"no gzip", Content_Encoding="gzip"), "Error -3 while decompressing"),
        (instead(POINTER), "a pointer of Git LFS instead of the file"),
        (status(404), "status 404 Not Found"),
        (status(429), "status 429 Too Many Requests"),
        (status(503), "status 503 Service Unavailable"),
    ],
)
def test_nothing_corrupted_is_ever_left(
    server: Server, place: Place, sleeps: list[float], fault, why: str
) -> None:
    mirrors = [server.url + path for path in MIRRORS]
    for path in MIRRORS:
        server.faults[path] = [fault] * 99
    message = place.fail(source_of(*mirrors))
    assert all(f"{mirror} (" in message for mirror in mirrors)
    assert message.count(why) == 2
    for hint in (f"sha256 {SHA256}", f"at {place.downloads / NAME} by hand", f"download:{NAME}"):
        assert hint in message


def test_a_pointer_is_not_the_file_even_if_its_digest_is_known(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    server.files[MIRRORS[0]] = POINTER
    known = hashlib.sha256(POINTER).hexdigest()
    assert "Git LFS" in place.fail(source_of(server.url + MIRRORS[0], sha256=known))


def test_without_a_network_every_address_is_named(place: Place, sleeps: list[float]) -> None:
    mirrors = [f"{closed_url()}/rows.json", "hf://datasets/some/rows@main/rows.json"]
    message = place.fail(source_of(*mirrors))
    assert all(f"{mirror} (" in message for mirror in mirrors)
    assert len(sleeps) >= ATTEMPTS - 1


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed_url())


def test_a_file_of_the_hub(
    server: Server, place: Place, sleeps: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.publish("datasets/some/rows", {"a/rows.json": CONTENT}, large=("a/rows.json",))
    path = f"/datasets/some/rows/resolve/{COMMIT}/a/rows.json"
    server.faults[path] = [cut(1000), altered]
    mirror = "hf://datasets/some/rows@main/a/rows.json"
    unpinned = Source(name=NAME, what="", licence="", mirrors=(mirror,))  # the hub's digest counts
    assert place.fetch(unpinned).read_bytes() == CONTENT
    assert ranges(server, path)[:2] == ["", "bytes=1000-"]
    assert place.kept() == [NAME, f"{NAME}.source.json"]


def test_a_file_that_the_hub_has_not(
    server: Server, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    server.publish("datasets/some/rows", {"other.json": CONTENT})
    assert "no a/rows.json in" in place.fail(source_of("hf://datasets/some/rows@main/a/rows.json"))


class Drive:
    """Stands in for Google Drive: a folder with these files, asked for as gdown wants it."""

    def __init__(self, **files: bytes) -> None:
        self.files = {name.replace("_", "."): content for name, content in files.items()}

    def download_folder(self, *, real, id: str, skip_download: bool, **options):
        assert (id, skip_download) == ("FOLDER", True)
        inspect.signature(real).bind(id=id, skip_download=skip_download, **options)
        return [SimpleNamespace(id=f"id of {n}", path=f"data/{n}") for n in self.files]

    def download(self, *, real, id: str, output: str, **options) -> None:
        inspect.signature(real).bind(id=id, output=output, **options)
        Path(output).write_bytes(self.files[id.removeprefix("id of ")])


@pytest.mark.parametrize(
    ("files", "outcome"),
    [
        ({"rows_json": CONTENT}, None),
        ({"rows_json": b"<html>Too many users have viewed this</html>"}, "none that is known"),
        ({"others_json": CONTENT}, "no rows.json in the folder"),
    ],
)
def test_a_file_in_a_folder_of_google_drive(
    place: Place, sleeps: list[float], monkeypatch: pytest.MonkeyPatch, files, outcome
) -> None:
    drive = Drive(**files)
    real = {name: getattr(gdown, name) for name in ("download_folder", "download")}
    for name, function in real.items():
        stand_in = partial(getattr(drive, name), real=function)
        monkeypatch.setattr(gdown, name, stand_in)
    source = source_of("drive://FOLDER/rows.json")
    if outcome is None:
        assert place.fetch(source).read_bytes() == CONTENT
    else:
        assert outcome in place.fail(source)


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_supplied_by_hand_is_verified_and_taken(place: Place, packed: bool) -> None:
    place.downloads.mkdir()
    name = f"{NAME}.gz" if packed else NAME
    (place.downloads / name).write_bytes(gzip.compress(CONTENT) if packed else CONTENT)
    out = place.fetch(source_of(closed_url()))
    assert out.read_bytes() == CONTENT
    assert read_json(record_of(out))["from"] == "supplied by hand"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (NAME, CONTENT[:-1], "none that is known"),
        (f"{NAME}.gz", gzip.compress(CONTENT)[:-20], "cannot be unpacked"),
        (f"{NAME}.gz", CONTENT, "cannot be unpacked"),
        (f"{NAME}.gz", gzip.compress(CONTENT[:-1]), "none that is known"),
    ],
)
def test_another_file_supplied_by_hand_is_refused(
    server: Server, place: Place, name: str, content: bytes, message: str
) -> None:
    place.downloads.mkdir()
    (place.downloads / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        place.fetch(source_of(server.url + MIRRORS[0]))
    assert not place.out.exists()
    assert place.kept() == [name]


def test_an_unknown_name_is_answered_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown data file 'zsre'; choose from zsre_train\.json"):
        download("zsre", downloads=tmp_path, out=tmp_path / "out")


@pytest.mark.parametrize("name", sources())
def test_the_table_is_complete(name: str) -> None:
    source = sources()[name]
    assert source.what
    assert source.licence
    assert source.mirrors
    for version in source.versions:
        assert len(version.sha256 or "") == 64 or len(version.git_blob or "") == 40
        assert version.by
    # Without a digest of ours, only the hub can tell whether a file is right.
    assert source.versions or all(mirror.startswith("hf://") for mirror in source.mirrors)
    for mirror in source.mirrors:
        assert mirror.startswith(("https://", "hf://datasets/", "drive://"))
    if source.rebuild:
        for part in (*source.rebuild.facts, *source.rebuild.unrelated):
            assert part in sources()


@pytest.mark.parametrize("name", sources())
def test_the_document_tells_of_every_file(name: str) -> None:
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
    assert f"`{name}`" in text


KILT = b"".join(
    json.dumps(
        {
            "input": f"Place {i} [SEP] country",
            "meta": {"template_questions": [f"Where is Place {i}?", f"What has Place {i}?"]},
            "output": [{"answer": f"Land {i}", "provenance": []}],
        }
    ).encode()
    + b"\n"
    for i in range(5)
)
NQ = b'{"input": "who is it", "output": [{"answer": "nobody"}]}\n'


def test_rows_are_rebuilt_when_only_kilt_can_be_had(
    server: Server, place: Place, sleeps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server.files |= {"/kilt": KILT, "/nq": NQ}
    digests = {
        name: hashlib.sha256(server.files[f"/{name}"]).hexdigest() for name in ("kilt", "nq")
    }
    parts = [
        source_of(f"{server.url}/{name}", name=f"{name}.jsonl", sha256=digest)
        for name, digest in digests.items()
    ]
    absent = source_of(f"{server.url}/absent", name="kilt.parquet")
    rebuild = Rebuild(facts=("kilt.parquet", "kilt.jsonl"), unrelated=("nq.jsonl",))
    out = place.fetch(source_of(f"{server.url}/gone", rebuild=rebuild), absent, *parts)
    rows = read_json(out)
    assert {row["ans"] for row in rows} == {f"Land {i}" for i in range(5)}
    assert all("rule-made" in row["relation"] for row in rows)
    record = read_json(record_of(out))
    assert record["rebuilt_from"] == {f"{name}.jsonl": digest for name, digest in digests.items()}
    assert "a stand-in is made from KILT" in caplog.text
    assert not (place.downloads / NAME).exists()  # once a mirror has it, it comes from there


def test_a_failed_rebuild_names_every_address_too(
    server: Server, place: Place, sleeps: list[float]
) -> None:
    names = ("gone", "kilt", "nq")
    gone, kilt, nq = (source_of(f"{server.url}/{name}", name=name) for name in names)
    rebuild = Rebuild(facts=("kilt",), unrelated=("nq",))
    source = source_of(*gone.mirrors, rebuild=rebuild)
    message = place.fail(source, kilt, nq)
    assert f"{server.url}/gone (" in message
    assert f"nor can it be rebuilt: kilt: no mirror has it: {server.url}/kilt (" in message


def test_the_command_shows_what_there_is_and_its_licence(capsys: pytest.CaptureFixture) -> None:
    app.cli(prog="malmen", args=["download"])
    shown = capsys.readouterr().out
    for source in sources().values():
        assert f"{source.name}\n    {source.what}\n    licence: {source.licence}\n" in shown
