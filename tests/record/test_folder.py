"""A run gets a folder for itself, or is refused before anything is made."""

import os
import stat
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

import record.folder
from recipe.errors import RecordError
from record.folder import check_folder, create_folder
from tests.record.runs import contents, diverged, finished, recipe, write_run


def unfinished(path: Path) -> None:
    finished(path)
    (path / "summary.json").unlink()


def foreign(path: Path) -> None:
    path.mkdir()
    (path / "thesis.tex").write_text("no copy")


@pytest.mark.parametrize("refuse", [check_folder, lambda c: create_folder(c, "jax")])
@pytest.mark.parametrize(
    "occupy, held",
    [
        (finished, "already holds a finished run; nothing is overwritten: choose"),
        (diverged, "already holds a diverged run; nothing"),
        (unfinished, "already holds an unfinished run; nothing"),
        (foreign, "already holds other files; nothing"),
        (lambda path: path.write_text(""), "is a file; choose another"),
    ],
)
def test_an_occupied_run_dir_is_refused_and_not_touched(tmp_path, refuse, occupy, held):
    occupy(tmp_path / "run")
    before = contents(tmp_path)
    with pytest.raises(RecordError, match=rf"run\.dir=.*/run {held}"):
        refuse(recipe(tmp_path / "run"))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "touch",
    [
        lambda run: (run / "logs" / "rank0.log").write_text(""),
        lambda run: (run / "new").touch(),
        lambda run: (run / "summary.json").touch(),
        lambda run: (run / "config.yaml").unlink(),
    ],
)
def test_a_run_that_was_touched_would_be_noticed(tmp_path, touch):
    finished(tmp_path / "run")
    before = contents(tmp_path)
    touch(tmp_path / "run")
    assert contents(tmp_path) != before


@pytest.mark.parametrize("there", [True, False])
def test_a_run_dir_that_is_empty_or_not_there_is_taken(tmp_path, there):
    path = tmp_path / "deep" / "run"
    if there:
        path.mkdir(parents=True)
    before = contents(tmp_path)
    check_folder(recipe(path))
    assert contents(tmp_path) == before
    assert create_folder(recipe(path), "jax") == path
    assert path.is_dir()


def test_a_folder_is_claimed_by_its_config_and_given_once(tmp_path, monkeypatch):
    folder = create_folder(recipe(tmp_path / "run"), "jax")
    assert [p.name for p in folder.iterdir()] == ["config.yaml"]
    with pytest.raises(RecordError, match="already holds an unfinished run"):
        create_folder(recipe(folder), "jax")
    # Both of two runs may have found it empty.
    monkeypatch.setattr("record.folder.check_folder", lambda _: None)
    with pytest.raises(RecordError, match="taken by another run just now"):
        create_folder(recipe(folder), "jax")
    monkeypatch.undo()
    write_run(folder)
    with pytest.raises(RecordError, match="already holds a finished run"):
        create_folder(recipe(folder), "jax")


def test_a_run_dir_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="/file is a file; choose another"):
        check_folder(recipe(tmp_path / "file" / "run"))


DENIED = (
    r"cannot write .*: Permission denied .*; choose another run\.dir, "
    "or change its permissions$"
)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of this process, which is root no longer, if it was."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own only root may enter
        before = os.getresuid()
        if os.geteuid() == 0:
            os.chown(folder, 65534, 65534)
            os.setresuid(65534, 65534, 0)
        try:
            yield Path(folder)
        finally:
            os.setresuid(*before)


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs setresuid")
@pytest.mark.parametrize("below", ["", "deep/run"])
def test_a_run_dir_that_cannot_be_written_is_refused(unprivileged, below):
    check_folder(recipe(unprivileged / below))
    unprivileged.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RecordError, match="no write permission in .* permissions$"):
        check_folder(recipe(unprivileged / below))
    with pytest.raises(RecordError):
        create_folder(recipe(unprivileged / below), "jax")


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs setresuid")
def test_a_run_dir_whose_check_was_wrong_is_refused_by_the_system(
    unprivileged, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda *_: True)  # as on some network disks
    unprivileged.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RecordError, match=DENIED):
        create_folder(recipe(unprivileged / "deep" / "run"), "jax")


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs setresuid")
def test_a_folder_that_is_there_and_cannot_be_written_is_refused_by_the_system(
    unprivileged, monkeypatch
):
    monkeypatch.setattr(os, "access", lambda *_: True)
    unprivileged.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(RecordError, match=DENIED):
        create_folder(recipe(unprivileged), "jax")
    assert list(unprivileged.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs setresuid")
@pytest.mark.parametrize("name", ["locked/run", "long" * 100])
def test_a_run_dir_that_cannot_be_looked_at_is_refused(unprivileged, name):
    (unprivileged / "locked").mkdir(mode=0)
    with pytest.raises(RecordError, match=f"{name}.*; choose another"):
        check_folder(recipe(unprivileged / name))


def test_runs_started_in_the_same_second_have_different_names(tmp_path, monkeypatch):
    class Noon(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, 14, 12, tzinfo=tz)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record.folder, "datetime", Noon)
    made = [create_folder(recipe(None), framework) for framework in ["jax"] * 3]
    name = "an-experiment-jax-20260314-120000"
    assert [path.name for path in made] == [name, f"{name}-2", f"{name}-3"]
    for path in made:
        assert path.parent == tmp_path / "runs"
        assert path.is_dir()


def test_a_run_asked_to_stop_before_it_has_its_folder_takes_that(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "STOP").touch()
    given = recipe(tmp_path / "run")
    check_folder(given)
    assert create_folder(given, "torch") == tmp_path / "run"
    assert (tmp_path / "run" / "STOP").exists()  # to be acted on
