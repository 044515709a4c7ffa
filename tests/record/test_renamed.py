"""Run folders with old names of keys are read, compared and resumed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from recipe.config import recipe_hash
from recipe.errors import RecordError
from record.checkpoint import read_checkpoint
from record.folder import create_folder
from record.resume import resume_point
from record.run import read_run, read_summary
from report.analysis.runs import read_timed_run
from tests.record.runs import interrupted, recipe, write_run
from tests.record.schema_2 import as_schema_2

# As the last version that wrote the second schema computed them.
HASH = "b44a420068c88858f9f5908303fafa084735392441d0de4023906e2602340d4d"
HASH_WITHOUT_SYNC = "eb7bba1f53de6837abd5700ecdf0b77ffb57089f957ad7bbc6681ab557645d06"


@pytest.fixture
def written(tmp_path) -> Path:
    folder = create_folder(recipe(tmp_path / "run"), "jax")
    write_run(folder)
    return folder


def test_a_run_of_the_second_schema_is_read_with_current_names(written, tmp_path):
    old = as_schema_2(shutil.copytree(written, tmp_path / "old"))
    assert "global_batch_size" not in (old / "summary.json").read_text()
    run, today = read_run(old), read_run(written)
    assert run.config == today.config
    assert run.summary == today.summary | {"schema_version": 2}
    assert run.rows == today.rows
    timed = read_timed_run(old)
    assert replace(timed, path=written) == read_timed_run(written)
    text = (old / "config.yaml").read_text()
    (old / "config.yaml").write_text(text.replace("accumulate: 1", "accumulate: 4"))
    assert read_timed_run(old).grad_accum_steps == 4


def test_an_experiment_keeps_the_hash_that_it_had_by_its_old_names():
    run = recipe(None)
    assert recipe_hash(run) == HASH
    alone = replace(run, parallel=replace(run.parallel, grad_sync=False))
    assert recipe_hash(alone) == HASH_WITHOUT_SYNC


def test_old_names_that_a_summary_holds_as_values_are_replaced(written):
    file = written / "summary.json"
    held = json.loads(file.read_text())
    held |= {"model": "own", "ablated": ["parallel.exchange", "optim.update"]}
    file.write_text(json.dumps(held))
    summary = read_summary(written)
    assert summary["model"] == "custom"
    assert summary["ablated"] == ["parallel.grad_sync", "optim.update"]


def test_a_control_of_the_second_schema_is_recognised(written):
    as_schema_2(written)
    text = (written / "config.yaml").read_text()
    (written / "config.yaml").write_text(text.replace("nudge: 0", "nudge: 3"))
    with pytest.raises(RecordError, match=r"control \(train\.perturb_seed=3\)"):
        read_timed_run(written)


@pytest.mark.parametrize("saved", [(2, 4), ()], ids=["saved", "unsaved"])
def test_a_run_of_the_second_schema_is_resumed_if_it_is_the_same(tmp_path, saved):
    run = as_schema_2(interrupted(tmp_path / "run", *saved))
    resume = resume_point(recipe(run))
    assert resume is not None and resume.differences == ()
    assert resume.step == max(saved, default=0)
    given = recipe(run)
    other = replace(given, train=replace(given.train, global_batch_size=4))
    with pytest.raises(RecordError, match=r"train\.global_batch_size is 4, was 8"):
        resume_point(other)


def test_a_record_with_both_names_of_a_key_is_refused(written):
    file = written / "config.yaml"
    text = file.read_text()
    twice = text.replace("  seed: 0", "  seed: 0\n  global_batch: 4")
    assert twice != text
    file.write_text(twice)
    with pytest.raises(RecordError, match="'global_batch' not in 'TrainConfig'"):
        read_run(written)
    file.write_text(text)
    summary = written / "summary.json"
    both = json.loads(summary.read_text()) | {"global_batch": 4}
    summary.write_text(json.dumps(both))
    with pytest.raises(RecordError, match="has unknown global_batch$"):
        read_run(written)


def test_a_checkpoint_of_the_first_schema_is_read_with_current_names(tmp_path):
    run = interrupted(tmp_path / "run", 4)
    (path,) = run.glob("checkpoints/step-*")
    before = read_checkpoint(path).recipe
    as_schema_2(run)
    assert '"nudge"' in (path / "manifest.json").read_text()
    assert read_checkpoint(path).recipe == before
