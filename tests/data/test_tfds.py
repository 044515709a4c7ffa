"""TFDS: its real builders and shuffler, on archives made here, undone to the bit.

TensorFlow is played: of it, a build takes a file's `open`, a string, and a PNG encoder.
"""

import io
import shutil
import sys
import types

import numpy as np
import pytest
from PIL import Image

from data import acquire, decoded, idx, tfds
from data.arrays import Arrays, fingerprint
from data.dataset import acquire as acquire_for_a_run
from data.dataset import load
from recipe.errors import DataError
from tests.data.cifar_archive import publish, write_cifar

pytest.importorskip("tensorflow_datasets", reason="needs the extra tfds")

NAMES = sorted(acquire.PUBLISHED)


def encode_png(image: np.ndarray) -> types.SimpleNamespace:
    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "png")
    return types.SimpleNamespace(numpy=stream.getvalue)


@pytest.fixture(autouse=True)
def no_prepared_datasets_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nowhere"))


@pytest.fixture
def tensorflow(monkeypatch):
    """Played where TFDS holds it: of one in `sys.modules` it would ask more."""
    from tensorflow_datasets.core.download import extractor
    from tensorflow_datasets.core.features import image_feature
    from tensorflow_datasets.core.utils import tf_utils
    from tensorflow_datasets.image_classification import cifar, mnist

    part = types.SimpleNamespace
    played = part(
        executing_eagerly=lambda: True,
        compat=part(as_text=str),
        image=part(encode_png=encode_png),
        io=part(gfile=part(GFile=open)),
    )
    for module in extractor, image_feature, tf_utils, cifar, mnist:
        monkeypatch.setattr(module, "tf", played)
    monkeypatch.setattr(tfds, "_require_tensorflow", lambda who: None)


@pytest.fixture
def archives(tmp_path, write_archive, monkeypatch):
    """`archives("mnist")`: what is published, for either source; their arrays."""
    from tensorflow_datasets.core.download import checksums
    from tensorflow_datasets.image_classification import cifar, mnist

    builders = dict(
        cifar10=cifar.Cifar10,
        cifar100=cifar.Cifar100,
        fashion_mnist=mnist.FashionMNIST,
        mnist=mnist.MNIST,
    )
    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 20)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 10)

    def write(name):
        if name in ("mnist", "fashion_mnist"):
            arrays = write_archive(tmp_path, gz=True)
            arrays = Arrays(
                arrays.train_images[..., np.newaxis],
                arrays.train_labels.astype(np.int32),
                arrays.test_images[..., np.newaxis],
                arrays.test_labels.astype(np.int32),
            )
        else:
            for (file,) in acquire.PUBLISHED[name].archives:
                arrays = write_cifar(tmp_path, file)
                publish(monkeypatch, tmp_path / file)
        published = builders[name].url_infos
        for url, info in list(published.items()):
            made = checksums.compute_url_info(tmp_path / info.filename)
            monkeypatch.setitem(published, url, made)
        return arrays

    return write


@pytest.fixture
def prepared(tmp_path, archives, tensorflow):
    """`prepared("mnist")`: a dataset that TFDS prepared in the root, and its arrays."""

    def prepare(name):
        arrays = archives(name)
        folder = tfds.build(name, tmp_path, tmp_path / "tfds", advice="")
        shutil.rmtree(tmp_path / "tfds" / "downloads")
        return folder, arrays

    return prepare


def run(name, root, source="tfds", *options):
    return acquire.main([name, "--source", source, "--root", str(root), *options])


@pytest.mark.parametrize("name", NAMES)
def test_both_sources_give_the_same_arrays_under_one_fingerprint(
    tmp_path, archives, tensorflow, name
):
    expected = archives(name)
    for source, label in ("torchvision", str(tmp_path)), ("tfds", "TFDS 4."):
        root = tmp_path / source
        assert run(name, root, source, "--archives", str(tmp_path)) == 0
        manifest = decoded.verify(name, root)
        assert manifest["fingerprint"] == fingerprint(expected)
        assert manifest["source"].startswith(label)
        assert [path.name for path in (root / name).iterdir()] == ["decoded"]


def test_intact_arrays_are_used_whatever_source_they_came_from(
    tmp_path, archives, config, monkeypatch
):
    archives("mnist")
    assert run("mnist", tmp_path, "torchvision") == 0
    monkeypatch.setattr("subprocess.Popen", None)
    acquire_for_a_run(config("mnist", source="tfds"))


def test_the_order_in_which_tfds_stores_is_another(prepared, monkeypatch):
    folder, expected = prepared("mnist")
    assert fingerprint(tfds.read(folder)) == fingerprint(expected)
    monkeypatch.setattr(tfds, "_places", lambda split, count: list(range(count)))
    assert fingerprint(tfds.read(folder)) != fingerprint(expected)


def test_cifar_s_own_ids_catch_another_order(prepared, monkeypatch):
    folder, expected = prepared("cifar100")
    assert fingerprint(tfds.read(folder)) == fingerprint(expected)
    monkeypatch.setattr(tfds, "_places", lambda split, count: list(range(count)))
    with pytest.raises(DataError, match=r"train_0000\d is where train_00000 is exp"):
        tfds.read(folder)


def test_a_prepared_dataset_needs_no_tensorflow(
    tmp_path, prepared, config, monkeypatch
):
    folder, expected = prepared("fashion_mnist")
    for file in tmp_path.glob("*.gz"):
        file.unlink()
    monkeypatch.undo()  # nothing is played any more but what is published
    monkeypatch.setattr(idx, "check_published", lambda *_: None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert run("fashion_mnist", tmp_path) == 0
    assert load(config("fashion_mnist")).fingerprint == fingerprint(expected)
    source = decoded.verify("fashion_mnist", tmp_path)["source"]
    assert source.endswith(f", prepared in {folder}")


def test_the_newest_prepared_version_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    assert tfds.prepared("mnist", [tmp_path]) is None
    for folder in "elsewhere/mnist/9.0.0", "tfds/mnist/3.0.9", "tfds/mnist/3.0.10":
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "dataset_info.json").touch()
    assert tfds.prepared("mnist", [tmp_path]) == tmp_path / "tfds/mnist/3.0.10"
    shutil.rmtree(tmp_path / "tfds")
    assert tfds.prepared("mnist", [tmp_path]) == tmp_path / "elsewhere/mnist/9.0.0"


def one_error(capsys) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


def test_without_the_extra_the_error_names_it(tmp_path, config, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert run("mnist", tmp_path) == 2
    assert "pip install -e '.[tfds]'" in one_error(capsys)


def test_without_tensorflow_a_build_names_the_extra(
    tmp_path, archives, monkeypatch, capsys
):
    archives("mnist")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert run("mnist", tmp_path) == 2
    assert "to build mnist, TFDS needs TensorFlow; install" in one_error(capsys)


def test_without_tensorflow_a_tfrecord_names_the_extra(
    tmp_path, prepared, monkeypatch, capsys
):
    folder, _ = prepared("mnist")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    monkeypatch.undo()  # nothing is played any more
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert run("mnist", tmp_path) == 2
    error = one_error(capsys)
    assert f"{folder} holds tfrecord, for which TFDS needs TensorFlow" in error
    assert "pip install -e '.[tfds-build]'" in error


def test_an_archive_that_is_not_the_published_is_named(
    tmp_path, archives, tensorflow, capsys
):
    archives("cifar10")
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-1])
    assert run("cifar10", tmp_path) == 2
    error = one_error(capsys)
    assert f"downloaded to {path}, has wrong checksum" in error


def test_a_download_that_fails_says_what_to_put_where(
    tmp_path, tensorflow, monkeypatch, capsys
):
    def get(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("requests.Session.get", get)
    assert run("cifar100", tmp_path) == 2
    error = one_error(capsys)
    assert "no network; put cifar-100-binary.tar.gz into" in error
    assert str(tmp_path / "cifar100") in error
    assert not list(tmp_path.iterdir())


def test_an_incomplete_prepared_dataset_is_named(tmp_path, prepared, capsys):
    folder, _ = prepared("mnist")
    (path,) = folder.glob("*train*")
    path.write_bytes(path.read_bytes()[:-100])
    assert run("mnist", tmp_path) == 2
    assert f"{folder} cannot be read: " in one_error(capsys)


def test_a_run_hands_its_source_on(config, prepared, capsys):
    _, expected = prepared("mnist")
    data = config("mnist", source="tfds")
    acquire_for_a_run(data)
    assert load(data).fingerprint == fingerprint(expected)
    assert "decoded from TFDS" in capsys.readouterr().err
