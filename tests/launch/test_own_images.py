"""docs/own-images.md, done line by line; and predictions by each twin."""

import csv
import json
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from recipe.config import from_yaml
from tests.conftest import ROOT
from tests.launch.conftest import refused
from tests.launch.pages import console_lines, write_files

PAGE = (ROOT / "docs" / "own-images.md").read_text()
COMMANDS = console_lines(PAGE)
PREDICT = ROOT / "launch" / "predict.py"


@pytest.fixture(scope="module")
def user(run_quickly, tmp_path_factory):
    """A folder in which each command of the page was run: what each printed."""
    folder = tmp_path_factory.mktemp("user")
    write_files(PAGE, folder)
    said = {}
    for line in COMMANDS:
        program, script, *arguments = shlex.split(line)
        assert program == "python"
        place = folder / script if (folder / script).exists() else ROOT / script
        done = run_quickly([place, *arguments], cwd=folder)
        assert done.returncode == 0, (line, done.stdout + done.stderr)
        said[line] = done
    return folder, said


@pytest.fixture(scope="module")
def predict(user, run_quickly):
    """`predict("runs/photos", "drawn.png", "--invert")`, where the page was done."""
    folder, _ = user

    def predict(*arguments):
        return run_quickly([PREDICT, *arguments], cwd=folder)

    return predict


def said_by(user, *words):
    """What the command of the page with these words printed."""
    (found,) = [d for line, d in user[1].items() if all(w in line for w in words)]
    return found


def test_200_images_of_a_folder_train_identically_in_both_frameworks(user):
    folder, _ = user
    assert len(list((folder / "photos").rglob("*.png"))) == 200
    verdict = json.loads((folder / "runs" / "check" / "parity.json").read_text())
    assert verdict["verdict"] == "identical" and verdict["precision"] == "fp64"


def test_images_are_decoded_by_the_first_run_alone_and_the_record_names_classes(user):
    said = said_by(user, "pytorch.py").stderr
    assert "decoded 160 training and 40 test images of 10 classes" in said
    folder, _ = user
    mean, std = re.search(r"mean=\[([\d.]+)\] data.std=\[([\d.]+)\]", said).groups()
    shown = re.search(r"data.mean=\[([\d.]+)\]' 'data.std=\[([\d.]+)\]", PAGE).groups()
    assert [float(f"{float(v):.2f}") for v in (mean, std)] == [float(v) for v in shown]
    config = from_yaml((folder / "runs" / "photos" / "config.yaml").read_text())
    assert config.data.class_names == [str(digit) for digit in range(10)]


def test_a_scanned_digit_and_a_drawn_one_are_recognised(user):
    folder, _ = user
    with (folder / "predictions.csv").open() as file:
        (drawn,) = csv.DictReader(file)
    assert drawn["path"] == "drawn.png" and drawn["label"] == "0"
    total = sum(float(drawn[f"p_{digit}"]) for digit in range(10))
    assert abs(total - 1) < 1e-12 and drawn["probability"] == drawn["p_0"]
    table = said_by(user, "photos/7").stdout
    labels = re.findall(r"photos/7/\d+\.png +(\d)", table)
    assert len(labels) == 20 and labels.count("7") >= 18


def test_a_light_drawing_is_noticed_and_inverted_only_if_asked(user):
    hint = "images are mostly bright at the border, such as drawn.png, and"
    assert hint in said_by(user, "photos/7").stdout
    assert "--invert" in said_by(user, "photos/7").stdout
    assert hint not in said_by(user, "--invert").stdout


def numbers(file):
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    return [row["path"] for row in rows], np.array(
        [[float(row[f"p_{digit}"]) for digit in range(10)] for row in rows]
    )


def test_both_twins_predict_the_same_from_either_s_run(user, predict, tmp_path):
    for run in "torch-1", "jax-1":
        found = []
        for framework in "torch", "jax":
            file = tmp_path / f"{run}-{framework}.csv"
            options = "--framework", framework, "--csv", file
            done = predict(f"runs/check/{run}", "photos", *options)
            assert done.returncode == 0, done.stderr
            found.append(numbers(file))
        assert found[0][0] == found[1][0] and len(found[0][0]) == 200
        # Not the same bits: each was computed by its own framework.
        assert 0 < np.abs(found[0][1] - found[1][1]).max() < 1e-12


def test_an_idx_file_and_a_jpeg_are_predicted_as_a_png_is(user, predict, tmp_path):
    folder, _ = user
    scans = sorted((folder / "photos" / "3").iterdir())[:3]
    pixels = np.stack([np.asarray(Image.open(file)) for file in scans])
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4) for n in pixels.shape)
    (tmp_path / "scans-idx3-ubyte").write_bytes(header + pixels.tobytes())
    Image.fromarray(pixels[0]).save(tmp_path / "a.jpg", quality=100)
    given = *scans, tmp_path / "scans-idx3-ubyte", tmp_path / "a.jpg"
    done = predict("runs/photos", *given, "--csv", tmp_path / "a.csv")
    assert done.returncode == 0, done.stderr
    names, found = numbers(tmp_path / "a.csv")
    assert names[3:6] == [f"{tmp_path / 'scans-idx3-ubyte'}[{n}]" for n in range(3)]
    np.testing.assert_array_equal(found[:3], found[3:6])
    assert found[6].argmax() == found[0].argmax()


@pytest.mark.parametrize(
    ("spoil", "arguments", "said"),
    [
        (None, ["runs/none", "drawn.png"], "runs/none is neither a run"),
        (None, ["runs/photos", "none.png"], "none.png cannot be read: No such file"),
        (None, ["runs/photos", "runs/check/parity.json"], "is neither a PNG nor"),
        (None, ["runs/photos", "runs/photos"], "runs/photos holds no image"),
        ("cut", ["runs/photos", "cut.png"], "cut.png cannot be read: "),
        ("csv", ["runs/photos", "drawn.png", "--csv", "a.csv"], "a.csv is there alre"),
        (None, ["runs/photos", "drawn.png", "--csv", "no/a.csv"], "no folder no; make"),
    ],
)  # fmt: skip
def test_bad_input_is_one_error_and_nothing_is_written(
    user, predict, spoil, arguments, said
):
    folder, _ = user
    (folder / "a.csv").write_text("kept")
    (folder / "cut.png").write_bytes((folder / "drawn.png").read_bytes()[:-30])
    before = sorted(folder.iterdir())
    refused(predict(*arguments), said)
    assert sorted(folder.iterdir()) == before
    assert (folder / "a.csv").read_text() == "kept"


def test_parity_refuses_a_folder_that_is_wrong_before_anything_starts(
    run_quickly, tmp_path
):
    data = "data=folder", f"data.files={tmp_path / 'none'}"
    run = tmp_path / "check"
    done = run_quickly(["launch/parity.py", *data, f"run.dir={run}"])
    refused(done, "data.files=", "none does not exist")
    assert not run.exists()


def test_one_rank_of_two_decodes(user, forked, tmp_path):
    data = "data=folder", f"data.files={user[0] / 'photos'}"
    given = (
        *data,
        f"data.root={tmp_path}",
        "train.steps=2",
        f"run.dir={tmp_path / 'run'}",
    )
    statuses, said = forked("torch", *given, processes=2)
    assert statuses == [0, 0] and said.count("decoded 160 training") == 1, said


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_truncated_image_stops_a_training_before_its_folder_is_made(
    user, forked, framework, tmp_path
):
    images = shutil.copytree(user[0] / "photos", tmp_path / "photos")
    cut = next((images / "5").iterdir())
    cut.write_bytes(cut.read_bytes()[:-30])
    data = "data=folder", f"data.files={images}", f"data.root={tmp_path / 'root'}"
    run = tmp_path / "run"
    (status,), said = forked(framework, *data, f"run.dir={run}", "train.steps=2")
    assert status == 2 and said.count("error: ") == 1, said
    assert f"error: {cut} cannot be read: " in said
    assert not run.exists() and not (tmp_path / "root").exists()


def test_changed_images_are_noted_by_an_evaluation_and_refused_by_an_export(
    user, run_quickly, tmp_path
):
    folder, _ = user
    images = shutil.copytree(folder / "photos", tmp_path / "elsewhere")
    shutil.copy(images / "5" / "15.png", images / "5" / "5.png")
    run = shutil.copytree(folder / "runs" / "photos", tmp_path / "run")
    given = f"run={run}", f"data.files={images}", f"data.root={tmp_path / 'root'}"
    done = run_quickly(["launch/evaluate.py", *given])
    assert done.returncode == 0, done.stderr
    note = "the data are not those that the run recorded: SHA-256 "
    assert note in done.stdout
    (written,) = (run / "evaluations").iterdir()
    assert note in json.loads((written / "evaluation.json").read_text())["notes"][0]
    assert note in (written / "index.html").read_text()
    refused(run_quickly(["launch/export.py", *given]), f"other content than {images}")
    assert not (run / "export").exists()
