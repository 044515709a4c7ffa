"""The command that writes a report, from folders and from W&B."""

import json

import pytest

from launch.report import main
from recipe.errors import ConfigError, RecordError
from report.write import FETCHED
from tests.record.trackers import CANARY, files_with
from tests.record.wandb_history import records
from tests.record.wandb_server import mirrored, running, serving
from tests.report.folders import write_run_folder


@pytest.fixture(scope="module")
def folder(written, tmp_path_factory):
    """Both frameworks on one and on two devices, and a run that failed."""
    root = tmp_path_factory.mktemp("runs")
    for framework in ("torch", "jax"):
        for size in (1, 2):
            for repeat in range(3):
                write_run_folder(
                    written,
                    root / f"{framework}-{size}-{repeat}",
                    100.0 * size + repeat,
                    framework=framework,
                    world_size=size,
                )
    write_run_folder(written, root / "failed", 1.0, status="failed", error="disk full")
    return root


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ([], "give run folders"),
        (["--wandb", "e/p"], "--wandb needs --out"),
        (["--wandb", "../p", "--out", "out"], "takes ENTITY/PROJECT, got ../p"),
        (["--wandb", "/p", "--out", "out"], "takes ENTITY/PROJECT, got /p"),
        (["runs", "--base", "0"], "--base must be at least 1, got 0"),
        (["runs", "--accuracy", "97"], r"--accuracy must lie in \(0, 1\], got 97"),
        (["runs", "--peak-flops", "0"], "--peak-flops must be positive"),
        (
            ["runs", "--interconnect", "dgx"],
            "is neither a machine nor a file; give one of: dgx-1",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(typed, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=told) as refused:
        main(typed)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "held", ["{", "{}", '{"devices": 2, "nbytes": [1], "seconds": []}']
)
def test_a_file_that_times_no_all_reduce_is_refused(held, tmp_path):
    file = tmp_path / "net.json"
    file.write_text(held)
    with pytest.raises(RecordError, match="net.json"):
        main([str(tmp_path), "--interconnect", str(file)])


def test_from_wandb_and_from_folders_come_the_same_numbers(
    folder, written, tmp_path, run_python
):
    offline = tmp_path / "from-folders"
    done = run_python(
        ["launch/report.py", folder, "--out", offline, "--log-wandb"],
        WANDB_API_KEY=CANARY,
        WANDB_MODE="offline",
    )
    assert done.returncode == 0, done.stderr
    assert "disk full" in done.stdout
    _check_logged(offline, done.stdout)
    out = tmp_path / "from-wandb"
    place = out / FETCHED / "e" / "p"
    write_run_folder(written, place / "listed before", 9.0)
    runs = {f"run-{n}": mirrored(f) for n, f in enumerate(sorted(folder.iterdir()))}
    with serving({"p": runs | {"slow": running(runs["run-0"])}}) as url:
        done = run_python(
            ["launch/report.py", "--wandb", "e/p", "--out", out],
            WANDB_BASE_URL=url,
            WANDB_API_KEY=CANARY,
            WANDB_MODE=None,
            NO_PROXY="127.0.0.1",
            WANDB_CACHE_DIR=tmp_path / "cache",
        )
        assert done.returncode == 0, done.stderr
    told = "skipped: e/p/slow (shown as slow): is still running"
    assert told in done.stdout and told[9:] in (out / "report.md").read_text()
    assert len(list(place.iterdir())) == 13 + 1
    assert (out / "table.csv").read_text() == (offline / "table.csv").read_text()
    one, other = (json.loads((f / "report.json").read_text()) for f in (offline, out))
    for part in "fits", "jax_against_torch", "projections", "parity":
        assert one[part] == other[part]
    for file in (offline / "figures").glob("*.csv"):
        assert file.read_text() == (out / "figures" / file.name).read_text()
    assert files_with(CANARY, tmp_path) == []


def _check_logged(out, said):
    """The report's run in W&B's offline file: its type, the table and the figures."""
    assert "wandb sync" in said
    (file,) = out.glob("wandb/offline-run-*/*.wandb")
    found = list(records(file))
    (run,) = [record.run for record in found if record.HasField("run")]
    assert (run.job_type, run.project) == ("report", "duet")
    logged = {
        item.nested_key[0]: json.loads(item.value_json)
        for record in found
        if record.WhichOneof("record_type") == "history"
        for item in record.history.item
        if item.nested_key[-1] == "_type"
    }
    assert logged.pop("report/table") == "table-file"
    assert logged.pop("report/page") == "html-file"
    assert set(logged.values()) == {"image-file"} and len(logged) == 8
