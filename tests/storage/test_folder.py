"""A study's folder: where it lies, how it is recognised, what is removed."""

import dataclasses
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from vtune.storage import folder as module
from vtune.storage.failure import StorageError
from vtune.storage.folder import (
    StudyFolder,
    create,
    erase,
    explained,
    leads_out,
    locate,
    state,
    tidy,
)
from vtune.storage.json_file import read_object


BAD_NAMES = [
    "",
    " ",
    "\u3000 ",
    ".",
    "..",
    "...",
    "a/b",
    "/a",
    "../a",
    "a\\b",
    "a/",
    "C:",
    "c:a",
    "a\0b",
    "a\nb",
    "\x1b[31m",
    "\x85",
    "\ud800",
    "a.",
    "a ",
    "CON",
    "nul",
    "NUL.txt",
    "aux .txt",
    "com1",
    "LPT9",
    "COM¹",
    "conin$",
    "a" * 201,
    "é" * 101,
    "a" * 10_000,
    3,
    b"a",
    Path("a"),
]
GOOD_NAMES = [
    "mnist",
    "mnist, wider",
    "a" * 200,
    "é" * 100,
    "'quoted' \"twice\"",
    "👩‍🔬 study",
    "[bold]<b>&amp;$(rm)%s{}",
    "~",
    ".hidden",
    "-rf",
    " a",
    "console",
    "com10",
    "nully.txt",
]


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    folder = locate(tmp_path / "studies", "mnist")
    create(folder)
    return folder


@pytest.fixture
def read_only() -> Iterator[Path]:
    """A folder that this process may read and not write, also if it is root's."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def tree(path: Path) -> set[str]:
    """All that lies below a folder, without following links."""
    return {
        os.path.relpath(os.path.join(place, name), path)
        for place, folders, files in os.walk(path)
        for name in (*folders, *files)
    }


def fill(folder: StudyFolder) -> None:
    """What a study that was killed may leave of each kind of file."""
    create(folder)
    for ending in ("", "-wal", "-shm", "-journal", "-new", "-new-journal"):
        folder.path.joinpath(f"study.sqlite{ending}").write_text("rows")
    for name in (
        "step-000003",
        "model-000001-000003",
        "step-000006.partial-checkpoint",
    ):
        inside = folder.checkpoints / name / "arrays"
        inside.mkdir(parents=True)
        (inside / "0").write_text("numbers")
    probe = folder.path / "vtune-probe-abc_0123"
    probe.mkdir()
    (probe / "probe.sqlite").touch()
    lease = folder.lease
    lease.write_text("{}")
    lease.with_name(f"{lease.name}.0123456789abcdef").write_text("{}")
    folder.marker.with_name(f"{folder.marker.name}.0123456789abcdef.part").touch()


# ------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name)[:20])
def test_a_bad_name_is_refused_before_anything_is_created(name, tmp_path):
    with pytest.raises(ValueError, match="project_name.*good names") as caught:
        locate(tmp_path / "studies", name)
    assert len(str(caught.value)) < 250
    assert not tree(tmp_path)


@pytest.mark.parametrize("name", GOOD_NAMES, ids=lambda name: ascii(name)[:20])
def test_a_good_name_is_that_of_the_folder(name, tmp_path):
    folder = locate(tmp_path, name)
    assert not tree(tmp_path)
    create(folder)
    assert tree(tmp_path) == {name, os.path.join(name, "vtune-study.json")}


@given(st.text(max_size=70) | st.text("./\\~: \0\naC\ud800", max_size=8))
def test_whatever_the_name_nothing_is_created_outside_the_directory(name):
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place).resolve() / "inside"
        try:
            folder = locate(directory, name)
        except ValueError:
            assert not tree(Path(place))
            return
        create(folder)
        assert os.listdir(place) == ["inside"]
        assert os.listdir(directory) == [name]
        assert state(folder) == "study"


def test_the_defaults_are_those_of_keras_tuner(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate(None, None).path == tmp_path / "untitled_project"
    assert locate("dir", None).path == tmp_path / "dir" / "untitled_project"
    assert locate(None, "mnist").path == tmp_path / "mnist"


def test_the_folder_stays_where_it_is_when_the_process_goes_elsewhere(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = locate("dir", "mnist")
    monkeypatch.chdir("/")
    assert folder.path == tmp_path / "dir" / "mnist"


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert locate("~/studies", "a").path == tmp_path / "studies" / "a"
    assert locate(Path("~"), "~").path == tmp_path / "~"


@pytest.mark.parametrize(
    "directory", ["a\0b", "\ud800", 3, b"a", "~nobody-of-this-name/a"], ids=ascii
)
def test_a_directory_that_cannot_be_one_is_refused(directory):
    with pytest.raises(ValueError, match="directory=.*such as 'studies'"):
        locate(directory, "mnist")


def test_the_parts_lie_in_the_folder(study):
    parts = (study.database, study.checkpoints, study.lease, study.marker)
    assert {part.parent for part in parts} == {study.path}
    assert study.database.name == "study.sqlite"
    assert len(set(parts)) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.path = Path("/")


# ------------------------------------------------------------------------- links


def test_a_link_that_leads_out_of_the_directory_is_refused(tmp_path):
    directory, elsewhere = tmp_path / "dir", tmp_path / "elsewhere"
    directory.mkdir()
    elsewhere.mkdir()
    (directory / "mnist").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(StorageError, match="link that leads out"):
        locate(directory, "mnist")


@pytest.mark.parametrize("act", [state, create, erase])
def test_a_link_that_comes_later_is_refused_as_well(act, tmp_path):
    elsewhere = locate(tmp_path, "elsewhere")
    fill(elsewhere)
    before = tree(tmp_path / "elsewhere")
    folder = locate(tmp_path / "dir", "mnist")
    folder.path.parent.mkdir()
    folder.path.symlink_to(elsewhere.path, target_is_directory=True)
    with pytest.raises(StorageError, match="link that leads out"):
        act(folder)
    assert tree(tmp_path / "elsewhere") == before


def test_the_directory_itself_may_be_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    create(locate(tmp_path / "link", "mnist"))
    assert state(locate(tmp_path / "real", "mnist")) == "study"


def test_what_leads_out(study, tmp_path):
    (study.path / "near").symlink_to("checkpoints")
    (study.path / "far").symlink_to(tmp_path)
    (study.path / "next").symlink_to("far")
    (tmp_path / "studies" / "mnist2").mkdir()
    inside = ["a", "a/b/../c", "near", "near/a", ".", study.path, study.path / "a"]
    outside = ["far", "far/a", "next", "..", "../mnist2", "a/../..", "/", tmp_path]
    assert not [path for path in inside if leads_out(study.path, Path(path))]
    assert [path for path in outside if leads_out(study.path, Path(path))] == outside


# ------------------------------------------------------------------------- state


def test_the_states(tmp_path):
    folder = locate(tmp_path, "mnist")
    assert state(folder) == "absent"
    folder.path.mkdir()
    assert state(folder) == "empty"
    create(folder)
    assert state(folder) == "study"
    folder.marker.unlink()
    folder.database.touch()
    assert state(folder) == "foreign"


def test_a_folder_is_no_study_for_its_name_alone(tmp_path):
    folder = locate(tmp_path, "vtune-study")
    folder.path.mkdir()
    (folder.path / "notes.txt").touch()
    assert state(folder) == "foreign"
    for act in (create, erase):
        with pytest.raises(StorageError, match="no study of vtune"):
            act(folder)
    assert tree(folder.path) == {"notes.txt"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"1",
        b"[]",
        b"{}",
        b"\xff",
        b'{"format": true}',
        b'{"format": "1"}',
        b'{"format": 1.0}',
        b'{"format": 0}',
        b'{"format": 1, "more": 1}',
        b"[" * 4000,
        b'{"format": 1}' + b" " * 10_000,
    ],
    ids=lambda content: ascii(content)[:20],
)
def test_a_damaged_marker_is_neither_used_nor_erased(content, study):
    study.marker.write_bytes(content)
    for act in (state, create, erase):
        with pytest.raises(StorageError, match="marks no study|in format 0"):
            act(study)
    assert study.marker.read_bytes() == content


def test_a_marker_is_a_plain_file(study, tmp_path):
    study.marker.rename(tmp_path / "elsewhere.json")
    study.marker.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(StorageError, match="small plain file"):
        state(study)
    study.marker.unlink()
    os.mkfifo(study.marker)
    with pytest.raises(StorageError, match="small plain file"):
        state(study)


def test_a_study_of_a_newer_vtune_is_left_alone(study):
    study.marker.write_text(json.dumps({"format": 2, "more": "unknown"}))
    with pytest.raises(StorageError, match="format 2.*knows 1 only"):
        state(study)


@given(
    st.binary(max_size=200) | st.text('{}[]:,"format1 ', max_size=30).map(str.encode)
)
def test_any_bytes_are_an_object_or_an_error_that_is_expected(content):
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "file")
        path.write_bytes(content)
        try:
            assert read_object(path) == json.loads(content)
        except ValueError:
            pass


# ------------------------------------------------------------------------- create


def test_only_unfinished_markers_are_tidied_up(study):
    part = f"{study.marker.name}.{'0' * 16}.part"
    mine = [f"{part}.txt", f"my {part}", f"{study.marker.name}.mine.part", "a.part"]
    for name in (part, *mine):
        (study.path / name).write_text("{")
    (study.path / part.replace("0", "1")).mkdir()
    before = tree(study.path)
    tidy(study)
    assert before - tree(study.path) == {part}
    (study.path / part).symlink_to(study.path / mine[0])
    tidy(study)
    assert before - tree(study.path) == {part}


def test_to_tidy_up_while_another_process_creates_the_same_does_no_harm(
    tmp_path, monkeypatch
):
    folder, replace = locate(tmp_path, "mnist"), os.replace

    def come_late(part: Path, path: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        create(folder)
        tidy(folder)
        replace(part, path)

    monkeypatch.setattr(os, "replace", come_late)
    create(folder)
    assert state(folder) == "study"
    assert os.listdir(folder.path) == [folder.marker.name]


def test_to_create_twice_changes_nothing(study):
    fill(study)
    before = tree(study.path)
    create(study)
    assert tree(study.path) == before


def test_the_marker_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    operations: list[str] = []
    folder = locate(tmp_path / "a" / "b", "mnist")

    def fsync(descriptor: int) -> None:
        is_marker = os.fstat(descriptor).st_size == len('{"format": 1}')
        operations.append("marker" if is_marker else "folder")

    def replace(source: Path, target: Path) -> None:
        assert source.parent == target.parent == folder.path
        assert json.loads(source.read_text()) == {"format": 1}
        assert state(folder) == "empty", "killed here, it could begin again"
        operations.append("replace")
        os.rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    create(folder)
    assert operations == ["marker", "replace", "folder", "folder"]


@pytest.mark.parametrize("name", ["fsync", "replace", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_is_told_of_and_can_be_tried_again(
    name, number, tmp_path, monkeypatch
):
    folder = locate(tmp_path, "mnist")

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, name, fail)
        with pytest.raises(StorageError, match=os.strerror(number)) as caught:
            create(folder)
    assert isinstance(caught.value.__cause__, OSError)
    assert state(folder) in ("absent", "empty")
    create(folder)
    assert tree(folder.path) == {"vtune-study.json"}


def test_a_read_only_directory_is_told_of(read_only):
    with pytest.raises(StorageError, match="cannot be created: Permission denied"):
        create(locate(read_only, "mnist"))
    assert not tree(read_only)


def test_a_folder_that_may_not_be_read_is_told_of(read_only, monkeypatch):
    def deny(path: Path) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", deny)
    with pytest.raises(StorageError, match="cannot be read: Permission denied"):
        state(locate(read_only, "mnist"))


@pytest.mark.parametrize("act", [state, create, erase])
def test_a_file_in_place_of_a_folder_is_told_of(act, tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (locate(tmp_path, "file"), locate(tmp_path / "file", "mnist")):
        with pytest.raises(StorageError, match="Not a directory"):
            act(folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_that_is_too_long_is_told_of(tmp_path):
    folder = locate(tmp_path / ("a" * 200 + "/") / ("b/" * 3000), "mnist")
    with pytest.raises(StorageError, match="File name too long") as caught:
        create(folder)
    assert len(str(caught.value)) < 600
    assert not tree(tmp_path)


def test_links_in_a_circle_are_told_of(tmp_path):
    (tmp_path / "mnist").symlink_to("mnist")
    with pytest.raises(StorageError, match="Too many levels of symbolic links"):
        create(locate(tmp_path, "mnist"))


def test_other_errors_than_those_of_the_system_pass(tmp_path):
    with pytest.raises(KeyError), explained(tmp_path, "read"):
        raise KeyError


# ------------------------------------------------------------------------- erase


def test_all_that_vtune_writes_is_erased(study):
    fill(study)
    erase(study)
    assert state(study) == "empty"
    assert not tree(study.path)


def test_nothing_is_erased_where_nothing_is(tmp_path):
    folder = locate(tmp_path, "mnist")
    erase(folder)
    assert not tree(tmp_path)


MINE = ["notes.txt", "study.sqlite.bak", "study.sqlite-old", "vtune-study.json.bak"]
MINE += [
    "step-000001/a",
    "model-000001/a",
    "my-study.sqlite",
    "sub/study.sqlite",
    "vtune-probe-a",
]
MINE += ["checkpoints/notes.txt", "checkpoints/last/a", "checkpoints/step-1.txt"]
MINE += ["checkpoints/my-step-000001/a", "checkpoints/study.sqlite", "study.sqlite-x/a"]


@given(st.sets(st.sampled_from(MINE)))
@settings(max_examples=40)
def test_what_others_wrote_stays(names):
    with tempfile.TemporaryDirectory() as place:
        folder = locate(place, "mnist")
        fill(folder)
        for name in names:
            (folder.path / name).parent.mkdir(exist_ok=True)
            (folder.path / name).write_text("mine")
        erase(folder)
        left = {name for name in tree(folder.path) if (folder.path / name).is_file()}
        assert left == names | ({"vtune-study.json"} if names else set())
        assert state(folder) == ("study" if names else "empty")
        create(folder)


def test_a_folder_with_the_name_of_the_database_is_not_ours(study):
    study.database.mkdir()
    (study.database / "mine").touch()
    erase(study)
    assert (study.database / "mine").exists()


def test_links_are_removed_and_never_followed(study, tmp_path):
    outside = tmp_path / "outside"
    (outside / "step-000001").mkdir(parents=True)
    (outside / "step-000001" / "mine").touch()
    (outside / "study.sqlite").touch()
    before = tree(outside)
    (study.checkpoints / "step-000002").mkdir(parents=True)
    (study.checkpoints / "step-000001").symlink_to(outside / "step-000001")
    (study.checkpoints / "step-000002" / "all").symlink_to(outside)
    study.database.symlink_to(outside / "study.sqlite")
    study.lease.symlink_to(outside)
    erase(study)
    assert tree(outside) == before
    assert not tree(study.path)
    create(study)
    study.checkpoints.symlink_to(outside)
    erase(study)
    assert tree(outside) == before
    assert not tree(study.path)


class Killed(BaseException):
    """The process ends here."""


def test_killed_at_any_moment_an_erasure_can_be_done_again(tmp_path, monkeypatch):
    unlink, rmdir = os.unlink, os.rmdir
    kills = 0
    while True:
        left = kills

        def counted(act, *arguments, **options):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            act(*arguments, **options)

        folder = locate(tmp_path, f"mnist {kills}")
        fill(folder)
        operations = len(tree(folder.path))
        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", lambda *a, **k: counted(unlink, *a, **k))
            patched.setattr(os, "rmdir", lambda *a, **k: counted(rmdir, *a, **k))
            try:
                erase(folder)
                break
            except Killed:
                kills += 1
        assert state(folder) in ("study", "empty")
        assert folder.lease.exists() or state(folder) == "empty"
        erase(folder)
        assert not tree(folder.path)
    assert kills == operations


def test_what_cannot_be_removed_is_told_of(study, monkeypatch):
    def deny(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    study.database.touch()
    monkeypatch.setattr(os, "unlink", deny)
    with pytest.raises(StorageError, match="cannot be erased: Permission denied"):
        erase(study)
    assert state(study) == "study"


def test_the_names_that_are_erased_are_those_of_the_parts(study):
    assert module._DATABASE_FILE.fullmatch(study.database.name)
    assert module._REMAINS.fullmatch(study.lease.name)
    assert not module._REMAINS.fullmatch(study.marker.name)
