"""python launch/export.py: its files are the trained model's, also without Duet."""

import csv
import json
import re
import shlex
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from data.digits import enlarge, read
from launch import export
from launch.export_check import check_file
from launch.models import open_model
from launch.outside import OUTSIDE
from recipe.errors import ConfigError, DuetError, RecordError
from recipe.formats import FORMATS
from recipe.manifest import MANIFEST, read_manifest
from record.card import model_card
from record.run import AVERAGE
from tests.conftest import ROOT, exhaustive_but
from tests.launch.conftest import NORMED, refused
from tests.launch.pages import console_lines

EXPORT = "launch/export.py"
PAGE = (ROOT / "docs" / "export.md").read_text()
*_, LAST = console_lines(PAGE)  # with all formats
BLOCKS = dict(re.findall(r"### ([\w ]+)\n.*?```python\n(.*?)```", PAGE, re.DOTALL))
QUICK = ["experiment=digits_cnn", "train.steps=60", "schedule=constant"]
EXACT = [name for name, form in FORMATS.items() if form.computes and not form.int8]
INT8 = ["onnx", "onnx-int8", "onnx-int8-dynamic"]


@pytest.fixture(scope="module")
def exported(train, run_quickly, tmp_path_factory):
    """`exported("torch", *keys)`: the export folder of a run in every format."""
    made = {}

    def exported(framework, *keys, formats=tuple(FORMATS)):
        if (framework, keys, formats) not in made:
            run, out = train(framework, *keys), tmp_path_factory.mktemp("e") / "export"
            wanted = "all" if formats == (*FORMATS,) else f"[{','.join(formats)}]"
            places = {"RUN": run, "FOLDER": out, "formats=all": f"formats={wanted}"}
            line = LAST
            for word, place in places.items():
                line = line.replace(word, str(place))
            done = run_quickly(shlex.split(line)[1:])
            assert done.returncode == 0, done.stderr
            made[framework, keys, formats] = out
        return made[framework, keys, formats]

    return exported


@pytest.fixture(scope="module")
def digits(exported):
    return exported("torch", *QUICK)


@pytest.fixture(scope="module")
def images(digits, tmp_path_factory):
    """Training and test images are mixed here: any will do."""
    small = np.kron(load_digits().images[:100], np.ones((3, 3))) * 15.9375
    padded = np.pad(small, ((0, 0), (2, 2), (2, 2)))
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, padded[..., None].astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def without_duet(run_python, digits, images, tmp_path_factory):
    """`without_duet(code)`: the lines' `logits`, Duet's packages being absent."""

    def without_duet(code):
        folder = tmp_path_factory.mktemp("outside")
        shutil.copytree(digits, folder, dirs_exist_ok=True)
        shutil.copy(images, folder)
        blocked = OUTSIDE.partition("; runpy")[0]
        lines = f"{blocked}\n{code}\nimport numpy\nnumpy.save('logits.npy', logits)\n"
        done = run_python(["-P", "-c", lines], cwd=folder)
        assert done.returncode == 0, done.stderr
        return np.load(folder / "logits.npy")

    return without_duet


@pytest.fixture(scope="module")
def right(without_duet):
    return without_duet(BLOCKS["onnxruntime"])


# Of JAX's run the format that torch writes is enough for each change.
RUNS = [("torch", (*FORMATS,)), ("jax", ("onnx",)), ("jax", (*FORMATS,))]


@pytest.mark.parametrize(("framework", "formats"), exhaustive_but(RUNS[:1], RUNS))
def test_every_format_of_either_frameworks_run_gives_the_trained_models_logits(
    framework, formats, exported
):
    folder = exported(framework, *QUICK, formats=formats)
    manifest = read_manifest(folder)
    assert {p.name for p in folder.iterdir()} == {
        MANIFEST,
        "README.md",
        *(FORMATS[name].file for name in formats),
    }
    assert manifest.framework == framework and manifest.test["examples"] == 359
    for name in {*EXACT} & {*formats}:
        found = manifest.files[name].measured
        assert found["examples"] == 359 and found["correct"] == manifest.test["correct"]
        assert max(found["logit_difference"], found["batch_difference"]) <= 1e-4


def test_a_file_with_other_logits_is_refused(digits, images, tmp_path):
    for name in "images.npy", "model.onnx":
        shutil.copy(
            (digits if name == "model.onnx" else images.parent) / name, tmp_path
        )
    with pytest.raises(DuetError, match=r"onnx: .* differ from the trained model's"):
        check_file("onnx", tmp_path / "model.onnx", tmp_path, np.zeros((100, 10)), None)


@pytest.mark.parametrize("title", [t for t in BLOCKS if t != "onnxruntime"])
def test_the_docs_lines_give_these_logits_without_duet(title, without_duet, right):
    assert np.abs(without_duet(BLOCKS[title]) - right).max() <= 1e-4


def test_features_in_another_order_would_be_noticed(without_duet, right):
    code = BLOCKS["Plain PyTorch"]
    wrong = code.replace("x.permute(0, 2, 3, 1).flatten(1)", "x.flatten(1)")
    assert wrong != code
    assert np.abs(without_duet(wrong) - right).max() > 1


def test_an_import_of_duet_would_fail_there(without_duet):
    with pytest.raises(AssertionError, match="import of recipe halted"):
        without_duet("import recipe")


@pytest.mark.parametrize(
    "keys",
    exhaustive_but([QUICK], [QUICK, ["experiment=fashion_cnn"]]),
)
def test_static_int8_is_within_a_point_of_fp32_in_less_than_a_third_of_the_bytes(
    keys, exported, request
):
    if "experiment=fashion_cnn" in keys:
        request.getfixturevalue("fashion_mnist")
    formats = tuple(FORMATS) if keys == QUICK else tuple(INT8)
    files = read_manifest(exported("torch", *keys, formats=formats)).files
    fp32, int8, dynamic = (files[name] for name in INT8)
    assert int8.measured["accuracy"] >= fp32.measured["accuracy"] - 0.01
    low, high = int8.measured["accuracy_interval"]
    assert low < int8.measured["accuracy"] < high
    assert int8.bytes <= 0.3 * fp32.bytes
    for file in fp32, int8, dynamic:
        assert {*file.measured["latency_seconds"]} == {"1", "256"}


def test_int8_that_costs_accuracy_says_so_in_the_card(digits, images, tmp_path):
    for folder, name in (images.parent, "images.npy"), (digits, "model-int8.onnx"):
        shutil.copy(folder / name, tmp_path)
    wrong = (load_digits().target[:100] + 1) % 10  # the trained model's, all right
    given = tmp_path / "model-int8.onnx", tmp_path, 9 * np.eye(10)[wrong], wrong
    found = check_file("onnx-int8", *given)
    manifest = read_manifest(digits)
    assert "points below" not in model_card(manifest)
    file = replace(manifest.files["onnx-int8"], measured=found)
    card = model_card(replace(manifest, files={"onnx-int8": file}))
    said = r"accuracy is (\S+) points below .* interval (\S+) to (\S+)\), more than 1;"
    points, low, high = map(float, re.search(said, card).groups())
    assert 90 < low < points <= high <= 100


def test_the_card_has_the_hubs_front_matter_and_a_row_for_each_format(digits):
    _, front, body = (digits / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-classification"
    (result,) = metadata["model-index"][0]["results"]
    test = read_manifest(digits).test
    assert result["metrics"] == [{"type": "accuracy", "value": test["accuracy"]}]
    for section in "Model Details", "Uses", "Training Details", "Evaluation":
        assert f"\n## {section}\n" in body
    for name in FORMATS:
        assert f"\n| {name} | " in body


def test_no_file_names_a_path_of_this_machine(digits):
    for file in digits.iterdir():
        assert str(ROOT).encode() not in file.read_bytes(), file


def changed(folder, **fields):
    file = folder / MANIFEST
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.parametrize(
    ("spoil", "told"),
    {
        "another file": (
            lambda f: (f / "model.onnx").write_bytes(b"another"),
            r"model\.onnx is not the file that was exported",
        ),
        "no file": (lambda f: (f / "model.onnx").unlink(), "onnx: .* cannot be read"),
        "no manifest": (lambda f: (f / MANIFEST).unlink(), r"model\.json cannot be"),
        "no JSON": (lambda f: (f / MANIFEST).write_text("{"), r"is not JSON"),
        "a list": (lambda f: (f / MANIFEST).write_text("[]"), "holds no object"),
        "a new schema": (lambda f: changed(f, schema_version=9), "has schema 9"),
        "labels": (
            lambda f: changed(f, labels="ten"),
            "labels is 'ten', expected list",
        ),
        "pixels": (lambda f: changed(f, pixels={}), "pixels lacks channels, height"),
        "too few labels": (
            lambda f: changed(f, labels=["zero"]),
            r"labels cannot be right; export again",
        ),
        "labels that are numbers": (
            lambda f: changed(f, labels=list(range(10))),
            "labels cannot be right",
        ),
        "pixels of no size": (
            lambda f: changed(
                f,
                pixels={"height": 0, "width": 28, "channels": 2}
                | {"resize": "no", "mean": [], "std": ["1"]},
            ),
            "height and width, .*channels, .*resize, .*mean, .*std, input: shape",
        ),
        "one more": (lambda f: changed(f, more=1), "has unknown more"),
    }.values(),
)
def test_a_manifest_that_does_not_fit_is_refused(digits, spoil, told, tmp_path):
    folder = shutil.copytree(digits, tmp_path / "export")
    spoil(folder)
    with pytest.raises(RecordError, match=told):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("keys", "told"),
    {
        ("formats=[onnx,tflite]",): "tflite is unknown; of: safetensors.*formats=all",
        ("formats=[onnx,onnx]",): "each format once; of: safetensors",
        ("formats=[]",): "each format once",
        ("formats=[onnx-int8]",): r"made from onnx.*write formats=\[onnx,onnx-int8\]",
        ("format=[onnx]",): r"format=\[onnx\]: did you mean formats=",
        ("onnx",): "keys are run=, formats=, out=, data.root=,",
        ("out={}/none/here",): "there is no folder",
        ("out={}",): "is there already; nothing is overwritten",
    }.items(),
)
def test_wrong_keys_are_refused_before_anything_starts(keys, told, train, tmp_path):
    run = train("torch", *QUICK)
    with pytest.raises((ConfigError, RecordError), match=told):
        export.main([f"run={run}", *(key.format(tmp_path) for key in keys)])
    assert not list(tmp_path.iterdir()) and not (run / "export").exists()


def test_weights_are_exported_as_evaluated_in_fp32_without_a_wrapper(config):
    arrays = {"a": np.ones(1), f"{AVERAGE}a": np.full(1, 2.0)}
    (found,) = export.evaluated_weights(SimpleNamespace(weights=arrays)).values()
    assert found == 2 and found.dtype == np.float32
    given = config(
        *("experiment=digits_cnn", "precision=fp16", "parallel=fsdp", "compile=true")
    )
    alone = export.on_one_device(given)
    assert (alone.precision.name, alone.parallel.name) == ("fp32", "dp")
    assert not alone.compile and alone.model == given.model


def test_a_missing_package_is_named_with_the_extra_that_has_it(monkeypatch):
    lacks = {"onnxscript"}
    monkeypatch.setattr(export, "find_spec", lambda name: None if name in lacks else 1)
    with pytest.raises(ConfigError, match=r"onnx needs onnxscript.*duet-twins\[onnx\]"):
        export.check_formats(["pt2", "onnx"])


def test_a_run_that_did_not_finish_is_refused(train, tmp_path):
    run = shutil.copytree(train("torch", *QUICK), tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    stopped = summary | {"status": "stopped", "error": "asked to stop"}
    (run / "summary.json").write_text(json.dumps(stopped))
    with pytest.raises(RecordError, match="holds a run that stopped: asked to stop"):
        export.main([f"run={run}"])
    (run / "summary.json").unlink()
    with pytest.raises(RecordError, match="still runs or was killed"):
        export.main([f"run={run}"])
    with pytest.raises(RecordError, match="is not a run folder: no config.yaml; give"):
        export.main([f"run={run / 'logs'}"])
    with pytest.raises(ConfigError, match="give run="):
        export.main([])


def test_a_model_that_a_format_lacks_is_refused_and_leaves_nothing(
    forked, run_quickly, tmp_path
):
    mine, run = tmp_path / "mine", tmp_path / "run"
    shutil.copytree(NORMED[1].partition("=")[2], mine)
    keys = [*NORMED[:1], f"model.folder={mine}", *NORMED[2:], "train.steps=2"]
    statuses, said = forked("torch", *keys, f"run.dir={run}")
    assert statuses == [0], said
    (mine / "jax_model.py").write_text("raise NotImplementedError('in torch alone')\n")
    done = run_quickly([EXPORT, f"run={run}", "formats=[safetensors,pt2,stablehlo]"])
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("error: ") == 1 and "in torch alone" in done.stderr
    assert "error: stablehlo: " in done.stderr and "Traceback" not in done.stderr
    assert not [p for p in run.iterdir() if "export" in p.name]


@pytest.fixture(scope="module")
def drawn_and_scanned(tmp_path_factory):
    """Two PNGs: a drawn zero, and a scanned eight as the model was trained on."""
    folder = tmp_path_factory.mktemp("drawn")
    drawn = Image.new("L", (112, 112))
    ImageDraw.Draw(drawn).ellipse((32, 12, 80, 100), outline=255, width=16)
    drawn.save(folder / "drawn.png")
    row = read()[8]  # its last column is the label
    Image.fromarray(enlarge(row[:64].reshape(1, 8, 8))[0, ..., 0]).save(
        folder / "scanned.png"
    )
    assert row[64] == 8
    return folder


@pytest.fixture(scope="module")
def predicted(run_quickly, drawn_and_scanned, tmp_path_factory):
    """`predicted("model.onnx")`: the labels of both, and their probabilities."""

    def predicted(model):
        file = tmp_path_factory.mktemp("predicted") / "a.csv"
        done = run_quickly(
            ["launch/predict.py", model, drawn_and_scanned, "--csv", file]
        )
        assert done.returncode == 0, done.stderr
        rows = list(csv.DictReader(file.read_text().splitlines()))
        numbers = [[float(row[f"p_{n}"]) for n in range(10)] for row in rows]
        return [row["label"] for row in rows], np.array(numbers)

    return predicted


@pytest.fixture(scope="module")
def predicted_from_run(train, predicted):
    return predicted(train("torch", *QUICK))


@pytest.mark.parametrize(
    "name", exhaustive_but(["onnx"], [n for n in FORMATS if FORMATS[n].computes])
)
def test_a_drawn_and_a_scanned_digit_are_predicted_from_each_file_as_from_the_run(
    digits, predicted, predicted_from_run, name
):
    labels, numbers = predicted(digits / FORMATS[name].file)
    assert labels == predicted_from_run[0] == ["0", "8"]
    allowed = 0.2 if FORMATS[name].int8 else 1e-5
    assert np.abs(numbers - predicted_from_run[1]).max() < allowed


def test_of_an_export_only_the_file_that_is_used_has_to_be_whole(digits, tmp_path):
    folder = shutil.copytree(digits, tmp_path / "export")
    (folder / "model.pt2").write_bytes(b"another")
    (folder / "model.safetensors").unlink()
    for path in folder, folder / "model.onnx":
        assert open_model(path, None).labels == [*"0123456789"]
    with pytest.raises(RecordError, match=r"model\.pt2 is not the file that was"):
        open_model(folder / "model.pt2", None)


def test_what_cannot_be_predicted_from_is_refused_by_name(
    digits, run_quickly, drawn_and_scanned, tmp_path
):
    def predict(model, *options):
        image = drawn_and_scanned / "drawn.png"
        return run_quickly(["launch/predict.py", model, image, *options])

    refused(predict(digits / "model.safetensors"), "holds weights alone")
    refused(predict(digits, "--framework", "jax"), "--framework jax is for run folders")
    changed = shutil.copytree(digits, tmp_path / "changed")
    (changed / "model.onnx").write_bytes(b"other")
    refused(predict(changed), "model.onnx is not the file that was exported")
    (changed / MANIFEST).unlink()
    refused(predict(changed), "changed is neither a run folder")
    refused(predict(changed / "model.onnx"), "model.json cannot be read")
