"""Datasets by name: verified against config and checksum, without a framework."""

import json

import numpy as np
import pytest

from data import decoded
from data.acquire import PUBLISHED
from data.arrays import Arrays, fingerprint
from data.dataset import IN_MEMORY, ON_DISK, acquire, load
from recipe.errors import ConfigError, DataError
from recipe.experiment import DATASETS

# The published files: with the name and time that Debian strips from their gzip headers
# put back, they have the MD5 that torchvision asks of a download.
FASHION_MNIST = "0bc3732c3b28f55e32e95a2ac5cea79965beb439344d36c57dc1ea8d673cc27d"


@pytest.fixture
def mnist(tmp_path, config, write_archive):
    """The config of a small acquired dataset."""
    write_archive(tmp_path)
    acquire(config("mnist"))
    return config("mnist")


@pytest.fixture
def folder(mnist):
    return decoded.decoded_folder("mnist", mnist.root)


def test_every_dataset_of_the_schema_is_made_in_memory_or_acquired():
    assert sorted([*IN_MEMORY, *ON_DISK, "folder"]) == list(DATASETS)
    assert set(PUBLISHED) == set(ON_DISK)


def test_real_fashion_mnist_is_acquired_without_torch_and_is_the_published(
    tmp_path, fashion_mnist, run_python
):
    probe = """
import sys
from data.dataset import acquire, load
from recipe.experiment import DataConfig
data = DataConfig(name="fashion_mnist", root=sys.argv[1], image_shape=[28, 28, 1],
                  classes=10, mean=[0.286], std=[0.353])
acquire(data)
dataset = load(data)
print(len(dataset.train_images), len(dataset.test_images), dataset.fingerprint)
print(*sorted({"jax", "sklearn", "torch", "torchvision"} & set(sys.modules)))
"""
    done = run_python(["-c", probe, tmp_path])
    assert done.stdout == f"60000 10000 {FASHION_MNIST}\n\n", done.stderr


@pytest.mark.parametrize("module, enters", [("sklearn", False), ("numpy", True)])
def test_importing_dataset_brings_numpy_and_no_framework(run_python, module, enters):
    probe = f"import sys, data.dataset; print({module!r} in sys.modules)"
    assert run_python(["-c", probe]).stdout == f"{enters}\n"


def test_importing_dataset_brings_neither_torch_nor_jax(run_python):
    probe = "import sys, data.dataset; print({'torch', 'jax'} & set(sys.modules))"
    assert run_python(["-c", probe]).stdout == "set()\n"


def test_what_is_made_in_memory_needs_no_disk(config):
    for name in "digits", "line", "synthetic":
        acquire(config(name, root="/dev/null/nowhere"))
    with pytest.raises(DataError, match="/dev/null/nowhere"):
        acquire(config("mnist", root="/dev/null/nowhere"))


def test_arrays_are_read_only(config, mnist):
    for dataset in load(mnist), load(config("digits")):
        for field in Arrays._fields:
            with pytest.raises(ValueError, match="read-only"):
                getattr(dataset, field)[0] = 0


def test_each_array_is_read_once_for_its_checksum_and_the_fingerprint_is_its_own(
    mnist, monkeypatch
):
    read = []
    sha256_of = decoded.sha256_of
    monkeypatch.setattr(
        decoded, "sha256_of", lambda path: read.append(path.name) or sha256_of(path)
    )
    monkeypatch.setattr("data.dataset.fingerprint", None)
    dataset = load(mnist)
    assert read == list(decoded.FILES)
    fields = [getattr(dataset, field) for field in Arrays._fields]
    assert fingerprint(Arrays(*fields)) == dataset.fingerprint


def test_acquiring_says_where_the_data_lies(mnist, folder, config):
    assert acquire(mnist) == str(folder)
    assert acquire(config("digits")) == "memory"


def test_loading_acquires_nothing_and_says_how_to(config, tmp_path):
    command = f"python -m data.acquire mnist --root {tmp_path}"
    with pytest.raises(DataError, match=command):
        load(config("mnist"))
    assert not list(tmp_path.iterdir())


def test_acquiring_twice_starts_no_second_process(mnist, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)
    acquire(mnist)
    with pytest.raises(TypeError):
        acquire(type(mnist)(**{**vars(mnist), "name": "fashion_mnist"}))


def test_the_acquirer_s_output_passes_and_its_error_is_raised_once(
    tmp_path, config, write_archive, capsys
):
    write_archive(tmp_path)
    acquire(config("mnist"))
    assert "mnist decoded from" in capsys.readouterr().err
    path = tmp_path / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"damaged")
    (decoded.decoded_folder("mnist", tmp_path) / "manifest.json").unlink()
    with pytest.raises(DataError) as error:
        acquire(config("mnist"))
    assert str(error.value).startswith(f"{path}: not an IDX file")
    err = capsys.readouterr().err
    assert "decoding mnist again" in err
    assert "not an IDX file" not in err


def test_an_acquirer_that_dies_is_an_error_too(config, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DataError, match="-m data.acquire mnist .* exit status 1"):
        acquire(config("mnist"))


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit(**changes):
    def change(path):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


CORRUPTIONS = {
    "bit flipped": ("train_images.npy", flip_bit),
    "half written": ("test_labels.npy", lambda p: p.write_bytes(p.read_bytes()[:-9])),
    "file missing": ("test_images.npy", lambda p: p.unlink()),
    "manifest missing": ("manifest.json", lambda p: p.unlink()),
    "half a manifest": ("manifest.json", lambda p: p.write_text(p.read_text()[:99])),
    "no manifest": ("manifest.json", lambda p: p.write_text("[]")),
    "no files": ("manifest.json", edit(files={})),
    "other schema": ("manifest.json", edit(schema=0)),
    "other dataset": ("manifest.json", edit(name="fashion_mnist")),
}


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruption_is_named_with_the_way_to_mend_it(mnist, folder, kind):
    file, corrupt = CORRUPTIONS[kind]
    intact = load(mnist).fingerprint
    corrupt(folder / file)
    with pytest.raises(DataError) as error:
        load(mnist)
    assert str(folder / file) in str(error.value)
    assert f"`python -m data.acquire mnist --root {mnist.root} --again`" in str(
        error.value
    )
    acquire(mnist)
    assert load(mnist).fingerprint == intact


def test_a_shape_other_than_configured_is_refused(config):
    with pytest.raises(DataError, match=r"digits: train_images .*\[28, 28, 1\]"):
        load(config("digits", image_shape=[8, 8, 1]))


def test_a_label_beyond_the_configured_classes_is_refused(config):
    with pytest.raises(DataError, match=r"digits: train_labels\[25\] = 9 .*\[0, 9\)"):
        load(config("digits", classes=9))


def test_class_labels_are_no_regression(config):
    with pytest.raises(DataError, match="train_labels must be float64"):
        load(config("digits", classes=0))


@pytest.mark.parametrize("key", ["test_examples", "noise"])
def test_what_a_fixed_dataset_would_ignore_is_refused(config, key):
    with pytest.raises(ConfigError, match=f"data.{key}=7 has no meaning"):
        load(config("digits", **{key: 7}))


def test_few_examples_are_each_classs_first_and_the_test_set_stays(config):
    whole, few = (load(config("digits", train_examples=n)) for n in (None, 25))
    assert set(np.bincount(few.train_labels)) == {2, 3}
    for label in range(10):
        kept = few.train_images[few.train_labels == label]
        of_class = whole.train_images[whole.train_labels == label]
        np.testing.assert_array_equal(kept, of_class[: len(kept)])
    np.testing.assert_array_equal(few.test_images, whole.test_images)
    assert few.fingerprint != whole.fingerprint
    all_of_them = load(config("digits", train_examples=1438))
    assert all_of_them.fingerprint == whole.fingerprint


def test_more_examples_than_there_are_are_refused(config):
    with pytest.raises(ConfigError, match="=1439, and data=digits has 1438; ask for"):
        load(config("digits", train_examples=1439))


def test_a_made_dataset_needs_its_sizes(config):
    with pytest.raises(ConfigError, match="data.test_examples must be given"):
        load(config("synthetic", train_examples=8))


def test_labels_are_int32_and_images_uint8(config):
    dataset = load(config("digits"))
    assert dataset.train_images.dtype == np.uint8
    assert dataset.train_labels.dtype == np.int32
