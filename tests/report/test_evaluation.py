"""An evaluation's files, and its page in a browser."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from recipe.config import from_yaml
from recipe.errors import RecordError
from record.schema import strict_json
from record.trained import read_trained
from report.analysis.evaluation import Evaluation, probabilities, score
from report.evaluation import write_evaluation
from tests.record.runs import contents

EXAMPLES, CLASSES = 400, 10
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def arrays():
    """Images, labels, and outputs of which a third are wrong."""
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(EXAMPLES, 16, 16, 1), dtype=np.uint8)
    labels = generator.integers(CLASSES, size=EXAMPLES, dtype=np.int32)
    outputs = generator.normal(size=(EXAMPLES, CLASSES)).astype(np.float32)
    outputs[np.arange(EXAMPLES), labels] += 2
    return images, labels, outputs


def evaluated(run, arrays, **changes):
    trained = read_trained(run)
    _, labels, outputs = arrays
    fields = {
        **{"trained": trained, "framework": "torch", "devices": 2},
        **{"precision": "fp32", "data_fingerprint": trained.data_fingerprint},
        "scores": score(labels, outputs, trained.config.data.classes),
    }
    return Evaluation(**fields | changes)


@pytest.fixture
def run(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


@pytest.fixture(scope="module")
def out(written, arrays, tmp_path_factory):
    run = shutil.copytree(written, tmp_path_factory.mktemp("evaluated") / "run")
    command = ["launch/evaluate.py", "run=runs/a run"]
    return write_evaluation(evaluated(run, arrays), *arrays, command)


def test_the_files_hold_what_was_scored(out, arrays):
    _, labels, outputs = arrays
    assert out.parts[-2:] == ("evaluations", "torch-final")
    assert sorted(p.name for p in out.iterdir()) == [
        *("evaluation.json", "index.html", "predictions.npz")
    ]
    held = json.loads((out / "evaluation.json").read_text())
    assert strict_json(held) == held
    assert (held["trained_by"], held["evaluated_by"]) == ("jax", "torch")
    low, high = held["accuracy_interval"]
    assert low < held["accuracy"] < high
    assert np.sum(held["confusion"]) == EXAMPLES == held["examples"]
    assert held["recorded"]["accuracy"] == 0.75 and held["notes"] == []
    with np.load(out / "predictions.npz") as file:
        np.testing.assert_array_equal(file["labels"], labels)
        np.testing.assert_array_equal(file["predictions"], outputs.argmax(axis=1))
        np.testing.assert_array_equal(file["probabilities"], probabilities(outputs))


def test_a_second_evaluation_replaces_nothing(run, arrays):
    first = write_evaluation(evaluated(run, arrays), *arrays, [])
    before = contents(first)
    second = write_evaluation(evaluated(run, arrays), *arrays, [])
    assert (first.name, second.name) == ("torch-final", "torch-final-2")
    assert contents(first) == before
    assert {p.name for p in first.parent.iterdir()} == {first.name, second.name}


def test_nothing_is_left_of_an_evaluation_that_could_not_be_written(
    run, arrays, monkeypatch
):
    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("report.evaluation.write_file", full)
    with pytest.raises(RecordError, match="No space left"):
        write_evaluation(evaluated(run, arrays), *arrays, [])
    assert list((run / "evaluations").iterdir()) == []


def test_other_data_and_another_precision_are_noted(run, arrays):
    notes = evaluated(run, arrays, data_fingerprint="0" * 64, precision="fp64").notes
    assert "the data are not those that the run recorded" in notes[0]
    assert notes[1] == "evaluated in fp64, trained in fp32"


def named(trained, names):
    data = replace(trained.config.data, class_names=names)
    return replace(trained, config=replace(trained.config, data=data))


def test_classes_have_their_names_in_json_and_on_the_page(run, arrays):
    names = ["zero", *(f"a {n}" for n in range(1, CLASSES))]
    found = evaluated(run, arrays, trained=named(read_trained(run), names))
    out = write_evaluation(found, *arrays, [])
    assert json.loads((out / "evaluation.json").read_text())["labels"] == names
    page = (out / "index.html").read_text()
    for number, name in enumerate(names):
        assert page.count(f">{number} {name}<") >= 2  # of classes, and in the matrix
    worst, *_ = found.scores.mistakes
    assert f"{names[worst.label]} as {names[worst.predicted]}, " in page


def test_a_page_of_a_regression_has_its_loss_alone(run, arrays):
    config = (run / "config.yaml").read_text().replace("classes: 10", "classes: 0")
    labels, outputs = np.zeros(EXAMPLES), arrays[2][:, :1]
    scores = score(labels, outputs, classes=0)
    trained = replace(read_trained(run), config=from_yaml(config), test=None)
    found = evaluated(run, arrays, scores=scores, trained=trained)
    out = write_evaluation(found, arrays[0], labels, outputs, [])
    page = (out / "index.html").read_text()
    assert f"loss {scores.loss:.4g}" in page
    assert "accuracy" not in re.sub("<style.*</style>", "", page, flags=re.DOTALL)
    assert np.load(out / "predictions.npz")["predictions"].shape == (EXAMPLES,)


# In a browser


def test_the_page_asks_for_nothing_and_complains_of_nothing(opened, out):
    asked = [url for url in opened.requests if not url.startswith("data:")]
    assert asked == [(out / "index.html").as_uri()]
    assert opened.complaints == []


@pytest.mark.parametrize("width", [1280, 400])
def test_mistakes_and_diagram_are_seen_and_nothing_runs_over_the_edge(opened, width):
    opened.size(width)
    assert opened.run("document.documentElement.scrollWidth") <= width
    tables = "[...document.querySelectorAll('.scroll')]"
    over = opened.run(f"{tables}.map(s => s.scrollWidth - s.clientWidth)")
    assert len(over) == 5 and (width < 1280 or not any(over))
    sizes = opened.run(
        "[...document.images].map(i => [i.naturalWidth, i.clientWidth, i.alt])"
    )
    assert len(sizes) == 1 + 24
    assert all(natural and shown > 90 for natural, shown, _ in sizes)


def test_no_name_becomes_markup(run, arrays, browser):
    found = evaluated(run, arrays)
    trained = named(replace(found.trained, skipped=(EVIL,)), [EVIL, *"abcdefghi"])
    found = replace(found, trained=trained)
    out = write_evaluation(found, *arrays, ["launch/evaluate.py", f"run={EVIL}"])
    browser.open(out / "index.html")
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
    assert browser.complaints == []
