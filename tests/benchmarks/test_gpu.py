"""What `make gpu` writes of parts that fail, hang, say nothing or are cut off."""

import json
import signal
import subprocess
import sys
import time
from functools import partial

import psutil
import pytest

from benchmarks.gpu import all as gpu
from benchmarks.gpu.checks import Checks, Failed, NeedsGpu, Omitted
from benchmarks.gpu.part import PARTS
from benchmarks.gpu.plan import PLAN, Part, allowed_seconds, chosen
from benchmarks.gpu.run import conclude, run_plan
from benchmarks.gpu.speed import speed
from recipe.errors import ConfigError
from tests.conftest import ROOT, clean_environment

# A part's process with a check that it has made, and one that it is making.
RECORDS = """
import json, os, subprocess, sys, time
file = sys.argv[1]
record = json.load(open(file))
def put(name, **check):
    record["checks"][name] = check
    json.dump(record, open(file + ".new", "w"))
    os.replace(file + ".new", file)
put("made", status="passed", norm=0.25)
"""
RUNS = "put('making', status='running')"
HANGS = """
code = "import time; time.sleep(600)"
rank = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
open(file + ".pid", "w").write(str(rank.pid))
print("waits for a rank", flush=True)
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    """`run({"a": code}, limit=5)`: the records, and the summary, of such parts."""

    def command(codes, part, folder):
        return [
            sys.executable,
            "-c",
            codes[part.name],
            str(folder / f"{part.name}.json"),
        ]

    def run(codes, limit=60.0, seconds=600.0, asked=lambda: None):
        parts = [Part(name, f"title of {name}", limit) for name in codes]
        how = partial(command, codes)
        records = run_plan(parts, tmp_path, seconds, "# Head", asked, how)
        for record in records:
            file = tmp_path / f"{record['part']}.json"
            if record["state"] != "never began":
                assert json.loads(file.read_text()) == record
            else:
                assert not file.exists()
        return records, (tmp_path / "summary.md").read_text()

    return run


def ended(file):
    """Whether the process that a file names runs no more; init may not reap it."""
    try:
        return psutil.Process(int(file.read_text())).status() == "zombie"
    except psutil.NoSuchProcess:
        return True


def eventually(holds):
    """Wait until something holds, or fail."""
    until = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def states(records):
    return [record["state"] for record in records]


def test_a_failed_part_does_not_stop_the_others_and_is_named_with_its_output(run):
    fails = "print('first'); print('cuDNN is not initialised'); raise SystemExit(3)"
    records, summary = run({"bad": fails, "good": RECORDS})
    assert states(records) == ["failed", "ended"]
    assert "| bad | failed (exit status 3; it recorded no check) |" in summary
    assert "first\ncuDNN is not initialised\n" in summary
    assert "- **made: passed**. norm 0.25" in summary and "State: done after" in summary


def test_a_part_that_hangs_is_ended_with_the_ranks_it_started(run, tmp_path):
    records, summary = run({"hangs": RECORDS + RUNS + HANGS, "good": RECORDS}, limit=5)
    assert states(records) == ["cut off", "ended"]
    assert records[0]["checks"]["making"]["status"] == "cut off"
    assert records[0]["checks"]["made"]["norm"] == 0.25
    assert "took more than 5 s" in summary and "waits for a rank" in summary
    assert ended(tmp_path / "hangs.json.pid")


def test_a_part_that_says_nothing_is_reported_so(run):
    records, summary = run({"silent": "raise SystemExit(1)", "idle": ""})
    assert states(records) == ["failed", "failed"]
    assert summary.count("it printed nothing") == 2
    assert "it recorded no check" in summary


def test_a_part_that_a_signal_kills_has_failed_and_so_has_what_it_was_checking(run):
    dies = RECORDS + RUNS + "; os.kill(os.getpid(), 11)"
    records, _ = run({"dies": dies})
    assert records[0]["why"].startswith("exit status -11; failed: making")
    assert records[0]["checks"]["making"]["status"] == "failed"


def test_parts_for_which_no_time_is_left_never_begin(run, monkeypatch):
    left = []

    def allowed(part, seconds):
        left.append(seconds)
        return 60 if part.name == "a" else 0

    monkeypatch.setattr("benchmarks.gpu.run.allowed_seconds", allowed)
    records, summary = run({"a": RECORDS, "b": RECORDS}, seconds=600)
    assert states(records) == ["ended", "never began"]
    assert "| b | never began (no time was left) | – | – |  |" in summary
    assert 600 >= left[0] > left[1] > 0


def test_a_signal_cuts_off_the_part_that_runs_and_none_begins_after_it(run, tmp_path):
    def asked():
        return "SIGTERM" if (tmp_path / "a.json.pid").exists() else None

    records, summary = run({"a": RECORDS + HANGS, "b": RECORDS}, asked=asked)
    assert states(records) == ["cut off", "never began"]
    assert "State: stopped by SIGTERM after" in summary
    assert "- **made: passed**" in summary


def test_a_killed_command_leaves_whole_files_and_no_process(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from benchmarks.gpu.plan import Part\n"
        "from benchmarks.gpu.run import run_plan\n"
        "command = lambda part, at: [sys.executable, '-c', sys.argv[2], sys.argv[3]]\n"
        "parts = [Part('a', 'A', 600), Part('b', 'B', 600)]\n"
        "run_plan(parts, Path(sys.argv[1]), 900, '# Head', command=command)\n"
    )
    file, pid = tmp_path / "a.json", tmp_path / "a.json.pid"
    summary = tmp_path / "summary.md"
    command = [sys.executable, "-c", code, str(tmp_path), RECORDS + HANGS, str(file)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        eventually(lambda: pid.exists() and "1 passed" in summary.read_text())
        process.kill()
    eventually(lambda: ended(pid))
    record = json.loads(file.read_text())
    assert record["state"] == "running" and record["checks"]["made"]["norm"] == 0.25
    said = summary.read_text()
    assert "| a | running | – | 600 | 1 passed |" in said
    assert "| b | never began |" in said and "if no process is" in said


@pytest.mark.parametrize(
    ("status", "checks", "state"),
    [
        (0, {"a": "passed", "b": "needs a GPU", "c": "not available"}, "ended"),
        (0, {"a": "failed"}, "failed"),
        (0, {}, "failed"),
        (1, {"a": "failed", "b": "passed"}, "failed"),
        (1, {"a": "passed"}, "failed"),
    ],
)
def test_a_part_ended_if_it_has_checks_and_none_failed(status, checks, state):
    made = {name: {"status": of} for name, of in checks.items()}
    record = {"status": status, "checks": made, "why": None}
    conclude(record)
    assert record["state"] == state


@pytest.mark.parametrize(
    ("left", "allowed"), [(600, 60), (60, 60), (45, 45), (9, 0), (-3, 0)]
)
def test_a_part_gets_its_limit_or_what_is_left(left, allowed):
    assert allowed_seconds(Part("a", "", 60), left) == allowed


def test_the_parts_are_in_order_of_value_whatever_order_is_asked_for():
    assert [part.name for part in chosen(["speed", "start"])] == ["start", "speed"]
    assert chosen([]) == list(PLAN)
    assert [*PARTS] == [part.name for part in PLAN]
    page = (ROOT / "docs" / "gpu.md").read_text()
    rows = [line.split("`")[1] for line in page.splitlines() if line[:3] == "| `"]
    assert rows == [*PARTS]


def test_an_unknown_part_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="fast is unknown; parts: start, group"):
        chosen(["speed", "fast"])


@pytest.fixture
def checks(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"checks": {}}))
    (tmp_path / "a.log").touch()
    return Checks("a", tmp_path, rehearsal=True)


def test_each_check_is_recorded_whatever_the_one_before_it_raised(checks, tmp_path):
    def raised(error):
        raise error

    for name, error in {
        "failed": Failed("too large", norm=2.0),
        "broken": ZeroDivisionError("of nothing"),
        "omitted": Omitted("no compiler"),
        "needs": NeedsGpu("no tensor cores"),
    }.items():
        checks.check(name, partial(raised, error))
    checks.check("good", lambda: {"norm": 1.0})
    made = json.loads((tmp_path / "a.json").read_text())["checks"]
    assert [check["status"] for check in made.values()] == [
        *("failed", "failed", "not available", "needs a GPU", "passed")
    ]
    assert made["failed"]["norm"] == 2.0 and made["good"]["norm"] == 1.0
    assert made["broken"]["why"] == "ZeroDivisionError: of nothing"
    assert checks.failed


def test_a_rehearsal_trains_nothing_with_cuda_graphs(checks, monkeypatch, tmp_path):
    trained = []
    monkeypatch.setattr(Checks, "train", lambda *given: trained.extend(given))
    monkeypatch.setattr("benchmarks.gpu.speed.figures", lambda _: {"busy_ms": 1.0})
    speed(checks)
    made = json.loads((tmp_path / "a.json").read_text())["checks"]
    graphs = {name for name in made if "compile=max" in name}
    assert len(graphs) == 2 and "compile=true" in trained
    assert "compile=max" not in trained
    for name, check in made.items():
        assert check["status"] == ("needs a GPU" if name in graphs else "passed")


def test_without_a_gpu_there_is_one_error_and_nothing_is_written(
    monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr("record.gpus.describe_gpus", lambda: None)
    monkeypatch.delenv("DUET_GPU_REHEARSAL", raising=False)
    assert gpu.main(["--folder", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "DUET_GPU_REHEARSAL=1" in said
    assert not (tmp_path / "new").exists()


def test_missing_packages_are_named_as_pip_installs_them(monkeypatch, capsys):
    lacking = ("hydra", "pynvml")
    monkeypatch.setattr(gpu, "find_spec", lambda name: None if name in lacking else 1)
    assert gpu.main([]) == 1
    assert "lacks hydra-core, nvidia-ml-py" in capsys.readouterr().err


def test_another_python_runs_it_without_an_installation():
    asked = ["make", "-n", "--no-print-directory", "gpu", "PY=python3"]
    asked += ["ARGS=--only speed"]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "python3 benchmarks/gpu/all.py --only speed"


def test_a_rehearsal_that_is_cut_off_is_readable(tmp_path):
    folder = tmp_path / "gpu"
    script = [sys.executable, "benchmarks/gpu/all.py", "--folder", str(folder)]
    process = subprocess.Popen(
        [*script, "--only", "start,loops,parity"],
        cwd=ROOT,
        env=clean_environment() | {"DUET_GPU_REHEARSAL": "1"},
        stdout=subprocess.DEVNULL,
    )
    eventually((folder / "loops.json").exists)  # so the first part has ended
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM
    read = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    assert {name: record["state"] for name, record in read.items()} == {
        **{"start": "ended", "loops": "cut off"}
    }
    checks = read["start"]["checks"]
    assert {check["status"] for check in checks.values()} == {"passed"}
    assert 0 < checks["jax"]["errors"]["convolution"] < 1e-5
    summary = (folder / "summary.md").read_text()
    assert summary.startswith("# Rehearsal on a CPU\n")
    assert "| parity | never began (stopped by SIGTERM) |" in summary
