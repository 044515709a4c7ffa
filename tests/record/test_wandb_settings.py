"""W&B's settings are from the command line, else its variables, else Duet's."""

import contextlib
import io

import pytest

from recipe.errors import ConfigError
from record import tracking, wandb_settings
from record.tracking import check_tracking
from tests.record.wandb_history import read_run, records
from tests.record.wandb_server import fresh_wandb

CHOSEN = {
    "WANDB_PROJECT": "their-project",
    "WANDB_ENTITY": "their-team",
    "WANDB_RUN_GROUP": "their-group",
}


@pytest.fixture
def mirror(make_config, tmp_path):
    """`mirror("tracking.project=x", WANDB_NAME="y")`: the run that W&B is shown."""

    def mirror(*typed: str, **variables: str):
        run_dir = tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        shown = contextlib.redirect_stdout(io.StringIO())
        with fresh_wandb(tmp_path / "home", **variables), shown:
            config = make_config("tracking=wandb", *typed)
            check_tracking(config)
            tracker = tracking.open_tracker(
                config,
                run_dir=run_dir,
                framework="torch",
                world_size=1,
                resolved={},
                environment={},
            )
            tracker.finish({"status": "finished"})
        return read_run(run_dir)[0]

    return mirror


def test_the_variables_that_wandb_documents_are_heard(mirror):
    named = {"WANDB_NAME": "mine", "WANDB_NOTES": "why", "WANDB_RUN_ID": "an-id"}
    kinds = {"WANDB_JOB_TYPE": "tuning", "WANDB_TAGS": "a, b"}
    run = mirror(**CHOSEN, **named, **kinds)
    assert (run.project, run.entity) == ("their-project", "their-team")
    assert (run.run_group, run.job_type) == ("their-group", "tuning")
    assert (run.display_name, run.notes, run.run_id) == ("mine", "why", "an-id")
    assert {"a", "b"} <= {*run.tags}


def test_what_was_typed_wins_over_a_variable(mirror):
    typed = [f"tracking.{key}=typed" for key in ("project", "entity", "group")]
    run = mirror(*typed, "tracking.tags=[typed]", **CHOSEN, WANDB_TAGS="theirs")
    assert (run.project, run.entity, run.run_group) == ("typed",) * 3
    assert "typed" in run.tags and "theirs" not in run.tags


def test_without_either_the_project_is_duet_and_the_group_the_experiment(mirror):
    run = mirror(WANDB_PROJECT="")
    assert (run.project, run.run_group) == ("duet", "digits_mlp")
    assert (run.display_name, run.job_type) == ("run", "train")


def test_a_variable_wins_over_what_duet_would_choose(monkeypatch):
    assert wandb_settings.settings()["x_disable_stats"] is True
    for name in "WANDB__DISABLE_STATS", "WANDB_CONSOLE", "WANDB_SAVE_CODE":
        monkeypatch.setenv(name, "false")
    left = wandb_settings.settings()
    assert not {"x_disable_stats", "console", "save_code", "disable_code"} & {*left}
    assert left["disable_git"] is True


@pytest.mark.parametrize("key", ["abc", "x" * 39, "spaces in it" * 9])
def test_a_malformed_key_keeps_the_run_offline_as_none_would(
    mirror, tmp_path, caplog, key
):
    mirror(WANDB_API_KEY=key)
    (folder,) = tmp_path.glob("run/wandb/offline-run-*")
    (path,) = folder.glob("*.wandb")
    assert [r.exit.exit_code for r in records(path) if r.HasField("exit")] == [0]
    (warning,) = [r for r in caplog.records if r.name == "duet"]
    assert "W&B is offline (AuthenticationError: WANDB_API_KEY" in warning.getMessage()
    assert key not in caplog.text


@pytest.mark.parametrize(
    ("typed", "variables", "said"),
    [
        ("tracking.project=a/b", {}, "tracking.project=a/b must be at most 128"),
        ("tracking.project=" + "p" * 129, {}, "at most 128 characters"),
        ("train.steps=1", {"WANDB_PROJECT": "a:b"}, "tracking.project=a:b must"),
        (f"tracking.tags=[{'t' * 65}]", {}, "has 65 characters; W&B takes 1 to 64"),
        ("train.steps=1", {"WANDB_TAGS": "t" * 65}, "WANDB_TAGS: .* 65 characters"),
        ("train.steps=1", {"WANDB_RUN_ID": "a/b"}, "WANDB_RUN_ID='a/b' must be"),
        ("train.steps=1", {"WANDB_MODE": "ofline"}, "WANDB_MODE=ofline is unknown"),
    ],
)
def test_what_wandb_would_refuse_later_is_refused_before_training(
    mirror, tmp_path, typed, variables, said
):
    with pytest.raises(ConfigError, match=said):
        mirror(typed, **variables)
    assert not list(tmp_path.glob("run/*"))


ALONE = """
import os
import launch.cli as cli
cli.hydra_main = lambda *_, **__: print(sorted(n for n in os.environ if "WANDB" in n))
cli.alone_main(None, config_name="study", schema=None)
"""


def test_the_runs_of_a_study_are_not_one_run_of_wandb(run_python):
    one = {"WANDB_RUN_ID": "one", "WANDB_NAME": "one", "WANDB_PROJECT": "all"}
    done = run_python(["-c", ALONE], **one)
    assert done.stdout == "['WANDB_MODE', 'WANDB_PROJECT']\n", done.stderr
