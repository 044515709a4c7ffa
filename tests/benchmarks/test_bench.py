"""What `make bench` says of its figures."""

import pytest

from benchmarks import all as bench
from benchmarks.page import verdicts
from report.analysis.intervals import Estimate

BOUNDS = {"at_least": {"rate": {"mlp": 1.0}}, "at_most": {"share": {"jax": 0.02}}}


@pytest.mark.parametrize(
    ("title", "of", "ratio", "said"),
    [
        ("rate", "mlp", Estimate(0.9, 0.85, 0.95), "missed"),
        ("rate", "mlp", Estimate(0.99, 0.95, 1.03), "undecided"),
        ("rate", "mlp", Estimate(1.01, 0.95, 1.03), "holds"),
        ("share", "jax", Estimate(0.03, 0.025, 0.04), "missed"),
        ("share", "jax", Estimate(0.03, 0.015, 0.06), "undecided"),
        ("share", "jax", Estimate(0.01, 0.005, 0.03), "holds"),
        ("rate", "cnn", Estimate(0.1, 0.1, 0.1), ""),
    ],
)
def test_a_bound_is_missed_where_the_whole_interval_is(title, of, ratio, said):
    (verdict,) = verdicts({title: {of: ratio}}, BOUNDS)
    assert verdict.verdict == said and verdict.missed == (said == "missed")


def test_a_twin_slower_than_its_peers_fails_the_benchmark(monkeypatch, capsys):
    def program(name, framework, kind):
        slow = framework == "jax" and kind == "twin"
        return {"images_per_second": 1000.0 / (20 if slow else 1)}

    monkeypatch.setattr(bench, "program", program)
    assert bench.main(["cnn"]) == 1
    said = capsys.readouterr().out
    assert "missed: jax twin / bare loop, cnn" in said
    assert "missed: torch twin / bare loop" not in said


def test_an_unknown_cell_is_named_with_those_there_are(capsys):
    assert bench.main(["vgg"]) == 2
    assert "vgg is unknown; benchmarks: mlp, digits_mlp" in capsys.readouterr().out


def test_a_program_that_fails_is_named_with_what_it_said():
    with pytest.raises(bench.Failed, match="left with 1.*SystemExit|no such thing"):
        bench.run(["-c", "raise SystemExit('no such thing')"])


def test_a_cell_that_fails_costs_none_of_the_others(monkeypatch, capsys):
    def program(name, framework, kind):
        if name == "cnn":
            raise bench.Failed("no such thing")
        return {"images_per_second": 1000.0}

    monkeypatch.setattr(bench, "program", program)
    assert bench.main(["cnn", "vit_tiny"]) == 1
    said = capsys.readouterr().out
    assert "cnn: no such thing" in said
    assert "| jax twin / bare loop | vit_tiny |" in said
