"""A W&B project's runs come back as run folders: those that ended, whole and once."""

import contextlib
import re

import pytest

from recipe.config import from_yaml
from recipe.errors import RecordError
from record.folder import create_folder
from record.run import read_rows, read_summary
from record.wandb_project import fetch_runs
from tests.record.runs import recipe, write_run
from tests.record.schema_2 import with_old_keys, with_old_names
from tests.record.wandb_server import fresh_wandb, mirrored, running, serving


@pytest.fixture
def project(tmp_path):
    """Two finished runs that W&B has, by id."""
    runs = {}
    for name in "one", "two":
        folder = tmp_path / name
        create_folder(recipe(folder), "jax")
        write_run(folder)
        runs[name] = mirrored(folder)
    return runs


@contextlib.contextmanager
def fetching(tmp_path, projects):
    """`fetch("e/p")` into one folder, from a server of these projects."""
    with serving(projects) as url:
        key = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "k" * 40}
        with fresh_wandb(tmp_path / "home", **key):
            yield lambda path: fetch_runs(path, tmp_path / "fetched")


def test_a_run_that_has_not_ended_is_named_and_fetched_when_it_has(tmp_path, project):
    one, two = (tmp_path / "fetched" / name for name in project)
    listed = project | {"two": running(project["two"])}
    killed = running(project["two"]) | {"state": "crashed"}
    resumed = project["two"] | {"state": "running"}  # has its first end's summary
    with fetching(tmp_path, {"p": listed}) as fetch:
        for unfinished in listed["two"], killed, resumed:
            listed["two"] = unfinished
            places, [(name, reason)] = fetch("e/p")
            assert (places, name) == ([one], "e/p/two (shown as two)")
            assert re.search("still running|it was killed", reason)
            assert not two.exists()
        listed["two"] = project["two"]
        assert fetch("e/p") == ([one, two], [])
    assert read_summary(two)["status"] == "finished"
    assert len(read_rows(two)) == len(project["two"]["history"])


def test_what_was_fetched_is_fetched_again_only_if_it_changed(tmp_path, project):
    one, two = (tmp_path / "fetched" / name for name in project)
    failed = {"status": "failed", "error": "disk full"}
    summary = project["two"]["summary"]
    project["two"]["summary"] = summary | failed
    with fetching(tmp_path, {"p": project}) as fetch:
        fetch("e/p")
        assert read_summary(two)["error"] == "disk full"
        for place in one, two:
            (place / "metrics.jsonl").unlink()
        project["two"]["summary"] = summary
        assert fetch("e/p") == ([one, two], [])
    assert read_summary(two)["status"] == "finished"
    assert (two / "metrics.jsonl").exists() and not (one / "metrics.jsonl").exists()


def test_a_run_that_was_logged_with_old_names_is_fetched_with_current_ones(
    tmp_path, project
):
    held = project["one"]
    values = {key: entry["value"] for key, entry in held["config"].items()}
    old = {key: {"value": v} for key, v in with_old_keys(values).items()}
    summary = with_old_names(held["summary"])
    project["one"] = held | {"config": old, "summary": summary}
    assert "global_batch" in summary and "nudge" in old["train"]["value"]
    one, two = (tmp_path / "fetched" / name for name in project)
    with fetching(tmp_path, {"p": project}) as fetch:
        assert fetch("e/p") == ([one, two], [])
    assert read_summary(one)["global_batch_size"] == 8
    assert from_yaml((one / "config.yaml").read_text()).train.log_every_steps == 2


def test_only_what_a_project_lists_is_given_and_nothing_is_lost(tmp_path, project):
    projects = {"p": {"one": project["one"]}, "q": {"two": project["two"]}, "none": {}}
    one, two = (tmp_path / "fetched" / name for name in project)
    with fetching(tmp_path, projects) as fetch:
        assert fetch("e/p") == ([one], [])
        assert fetch("e/q") == ([two], [])
        assert one.exists()
        with pytest.raises(RecordError, match="^e/none has no training runs"):
            fetch("e/none")
        with pytest.raises(RecordError, match="cannot read e/absent from W&B"):
            fetch("e/absent")
