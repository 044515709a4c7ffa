"""What `make claims` makes of its figures, and when it writes its page."""

import json

import numpy as np
import pytest

from benchmarks.all import Failed
from benchmarks.claims import all as claims
from benchmarks.claims import measure, nan
from benchmarks.claims.lines import code_lines
from benchmarks.claims.measure import NOTES, PARTS
from benchmarks.claims.page import page
from benchmarks.claims.sums import MEASURES, break_even, holds, total_seconds
from recipe.weights import initial_weights
from report.analysis.intervals import Estimate


def program(fixed, step, noise=1e-4):
    """Three repeats that differ a little."""
    return [
        {
            "import": fixed / 2,
            "start": fixed / 4,
            "compile": fixed / 4,
            "step": step * (1 + noise * repeat),
            "peak_process": 1e9,
            "peak_device": None,
        }
        for repeat in range(3)
    ]


@pytest.fixture
def results():
    """Every part's results, as a CPU gives them."""
    programs = {
        name: program(fixed, step)
        for name, fixed, step in (
            ("torch eager", 2.0, 0.002),
            ("torch compiled, cold", 20.0, 0.0021),
            ("torch compiled, warm", 8.0, 0.0021),
            ("jax, cold", 4.0, 0.001),
            ("jax, warm", 3.0, 0.001),
        )
    }
    frameworks = {"torch": [1.0, 1.1, 1.2], "jax": [2.0, 2.1, 2.2]}
    nan = {f: {"tool": its, "trace": its, "steps": 21} for f, its in frameworks.items()}
    gradient = {
        "torch eager": [0.01] * 3,
        "torch compiled": [9.0] * 3,
        "jax": [1.0] * 3,
    }
    return {
        "cost": {m: {"flops": 1e9, "programs": programs} for m in NOTES["models"]},
        "scaling": {"torch": [0.8, 0.81, 0.79], "jax": [0.7, 0.72, 0.71]},
        "restart": {f: {"fresh": s, "resumed": s} for f, s in frameworks.items()},
        "gradient": gradient,
        "nan": nan,
        "nnx": {"variables": 62, "microseconds": [0.5, 0.51, 0.52]},
        "lines": {
            file: {"torch": 140, "jax": 150}
            for files in NOTES["features"].values()
            for file in files
        },
        "machine": {
            **{"name": "A Fast One", "cores": 2, "date": "2026-11-27", "commit": "abc"},
            **{"minutes": 10.0, "load": 0.1, "repeats": 3},
            "busy": {"median": 0.01, "most": 0.02},
        },
    }


def test_the_page_is_what_its_results_and_notes_give(root):
    file = root / "docs" / "claims.json"
    measured = json.loads(file.read_text()) if file.exists() else {}
    assert (root / "docs" / "claims.md").read_text() == page(NOTES, measured)


def test_each_claim_has_its_source_its_interval_and_its_command(results):
    assert results.keys() - {"machine"} == PARTS.keys()
    text = page(NOTES, {"cpu": results})
    for claim in NOTES["claims"]:
        assert claim["measure"] in MEASURES and claim["part"] in PARTS
        (row,) = (r for r in text.splitlines() if r.startswith(f"| {claim['claim']} |"))
        assert f"]({claim['link']})" in row and claim["untested"] in row
        assert f"`make claims ONLY={claim['part']}`" in row and " to " in row
        assert "| not measured |" in row  # on a GPU


def test_the_cheapest_program_is_the_one_that_has_spent_the_least(results):
    text = page(NOTES, {"cpu": results})
    rows = [[c.strip() for c in r.split("|")[1:-1]] for r in text.splitlines()]
    cheapest = {tuple(row[:2]): row[2] for row in rows if len(row) == 6}
    assert cheapest["1", "cold"] == cheapest["1,000", "cold"] == "torch eager"
    assert cheapest["10,000", "cold"] == "jax"


def test_a_gpus_results_fill_its_column_beside_the_cpus(results, tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    with monkeypatch.context() as without:
        without.setattr(claims, "figure", lambda file, _: file.touch())
        claims.write(tmp_path, "cpu", results)
    claims.write(tmp_path, "gpu", results)
    text = (tmp_path / "claims.md").read_text()
    claimed = next(r for r in text.splitlines() if NOTES["claims"][0]["claim"] in r)
    filled = "linear 2.1 (2.1 to 2.1)"
    assert claimed.count(filled) == 1 and "not measured" not in claimed
    assert {*json.loads((tmp_path / "claims.json").read_text())} == {"cpu", "gpu"}
    assert (tmp_path / "images" / "claims-gpu.png").exists()


@pytest.mark.parametrize(("busy", "warns"), [(0.01, False), (0.4, True)])
def test_the_page_says_that_the_machine_was_not_quiet(results, busy, warns):
    results["machine"]["busy"]["median"] = busy
    assert ("do not rely on these figures" in page(NOTES, {"cpu": results})) == warns


def test_twins_that_are_not_identical_get_no_page(monkeypatch, tmp_path, capsys):
    def differ(command, **_):
        assert command[0] == "launch/parity.py", "nothing is measured after that"
        raise Failed("launch/parity.py exited with 1")

    monkeypatch.setattr(measure, "run", differ)
    monkeypatch.setattr(claims, "busy_share", lambda: 0.0)
    assert claims.main([], tmp_path) == 1
    assert "nothing is written: launch/parity.py" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_an_unknown_part_is_named_with_those_there_are(capsys):
    assert claims.main(["costs"]) == 2
    assert "costs is unknown; parts: cost, scaling" in capsys.readouterr().out


def test_steps_cost_what_is_fixed_and_n_times_a_step():
    assert total_seconds(program(3.0, 0.5, noise=0), 10) == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ((2.0, 0.2), (4.0, 0.1), "from 20"),  # dearer to start, quicker steps
        ((4.0, 0.1), (2.0, 0.2), "until 20"),
        ((4.0, 0.2), (2.0, 0.1), "always"),
        ((2.0, 0.1), (4.0, 0.2), "never"),
        ((2.0, 0.1), (4.0, 0.1), "never †"),
        ((4.0, 0.1), (2.0, 0.1), "always †"),
    ],
)
def test_the_second_program_breaks_even_where_it_has_spent_less(first, second, said):
    point = break_even(program(*first), program(*second))
    assert str(point).startswith(said)
    if point.steps is not None:
        costs = [total_seconds(program(*p), 100) for p in (first, second)]
        assert (costs[1] < costs[0]) == (point.kind == "from")


@pytest.mark.parametrize(
    ("low", "high", "side", "said"),
    [
        (1.1, 1.3, "above", "yes"),
        (0.9, 1.3, "above", "undecided"),
        (0.7, 0.9, "above", "no"),
        (0.7, 0.9, "below", "yes"),
    ],
)
def test_a_claim_holds_where_its_whole_interval_is_on_its_side(low, high, side, said):
    assert holds(Estimate(1.0, low, high), side, 1.0) == said


def test_comments_docstrings_and_blank_lines_are_no_lines():
    source = '"""What."""\n\n\ndef f():\n    """Why."""\n    # how\n    return 1\n'
    assert code_lines(source) == 2


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_frameworks_own_tool_names_the_layer_of_a_planted_nan(config, framework):
    recipe = config(NOTES["nan"]["recipe"])
    weights, leaf = initial_weights(recipe), NOTES["nan"]["leaf"]
    images = np.ones((2, *recipe.data.image_shape), np.float32)
    named = {"torch": nan.by_torch, "jax": nan.by_jax}[framework]
    weights[leaf] = weights[leaf].copy()
    weights[leaf].flat[0] = np.nan
    assert named(recipe, weights, images) == leaf.removesuffix(".kernel")
