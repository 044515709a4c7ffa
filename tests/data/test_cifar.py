"""CIFAR's archives: both layouts give the same arrays; nothing unchecked is read."""

import os
import pickle

import numpy as np
import pytest

from data import acquire, decoded
from data.arrays import fingerprint
from data.cifar import ARCHIVES, read_cifar
from data.dataset import load
from recipe.errors import DataError
from tests.data.cifar_archive import as_python2, publish, write_cifar

FORMS = {name: acquire.PUBLISHED[name].archives for name in ("cifar10", "cifar100")}
PICKLED = "cifar-10-python.tar.gz"


@pytest.fixture
def cifar(config):
    """`cifar("cifar10")`: a config of that dataset."""

    def make(name, **changes):
        shape = {"image_shape": [32, 32, 3], "mean": [0.5] * 3, "std": [0.25] * 3}
        classes = acquire.PUBLISHED[name].classes
        return config(name, **{"classes": classes, **shape, **changes})

    return make


@pytest.mark.parametrize("place", [".", "{name}"])
@pytest.mark.parametrize(
    "name, file", [(name, file) for name in FORMS for (file,) in FORMS[name]]
)
def test_every_form_gives_the_published_order_and_one_fingerprint(
    tmp_path, cifar, monkeypatch, name, file, place
):
    folder = tmp_path / place.format(name=name)
    expected = write_cifar(folder, file)
    publish(monkeypatch, folder / file)
    assert acquire.main([name, "--root", str(tmp_path)]) == 0
    assert load(cifar(name)).fingerprint == fingerprint(expected)
    assert decoded.verify(name, tmp_path)["source"] == str(folder / file)


def test_an_archive_is_refused_by_its_checksum_before_anything_in_it_is_read(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("tarfile.open", None)
    write = tmp_path / PICKLED
    write.write_bytes(b"truncated")
    assert acquire.main(["cifar10", "--root", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {write}: truncated, corrupt or not the published")
    assert ARCHIVES[PICKLED].sha256 in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [PICKLED]


class Program:
    def __reduce__(self):
        return os.mkdir, ("ran",)


MALFORMED = {
    "a pickle that asks for a program": (pickle.dumps(Program(), 2), "posix.mkdir"),
    "a truncated pickle": (as_python2({b"data": np.zeros((2, 3072))})[:-9], ""),
    "no labels": (as_python2({b"data": np.zeros((2, 3072), np.uint8)}), "b'labels'"),
    "no dictionary": (as_python2({}), "b'data'"),
    "pixels left over": (
        as_python2({b"data": np.zeros((2, 3000), np.uint8), b"labels": [1, 2]}),
        "cannot reshape",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_member_that_is_no_batch_is_an_error_that_names_the_archive(
    tmp_path, monkeypatch, kind
):
    content, reason = MALFORMED[kind]
    write_cifar(tmp_path, PICKLED, test_batch=content)
    publish(monkeypatch, tmp_path / PICKLED)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        read_cifar(tmp_path / PICKLED)
    assert str(error.value).startswith(f"{tmp_path / PICKLED}: not laid out as")
    assert reason in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_an_unrestricted_unpickler_would_have_run_the_program(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(MALFORMED["a pickle that asks for a program"][0])
    assert (tmp_path / "ran").exists()


def test_a_label_out_of_range_names_the_archive(tmp_path, monkeypatch, capsys):
    rows = np.zeros((2, 3072), np.uint8)
    content = as_python2({b"data": rows, b"labels": [1, 10]})
    write_cifar(tmp_path, PICKLED, test_batch=content)
    publish(monkeypatch, tmp_path / PICKLED)
    assert acquire.main(["cifar10", "--root", str(tmp_path)]) == 2
    expected = f"{tmp_path / PICKLED}: test_labels[1] = 10 is not in [0, 10)"
    assert expected in capsys.readouterr().err


def test_torchvision_s_reader_agrees_with_ours(tmp_path, monkeypatch, run_python):
    probe = """
import sys, tarfile
import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from data.arrays import Arrays, fingerprint
for dataset in CIFAR10, CIFAR100:
    dataset._check_integrity = dataset._load_meta = lambda self: True
    with tarfile.open(f"{sys.argv[1]}/{dataset.filename}") as tar:
        tar.extractall(sys.argv[1], filter="data")
    splits = [dataset(sys.argv[1], train=train) for train in (True, False)]
    arrays = [(s.data, np.array(s.targets, np.int32)) for s in splits]
    print(fingerprint(Arrays(*arrays[0], *arrays[1])))
"""
    ours = []
    for file in PICKLED, "cifar-100-python.tar.gz":
        write_cifar(tmp_path, file)
        publish(monkeypatch, tmp_path / file)
        ours.append(fingerprint(read_cifar(tmp_path / file)))
    theirs = run_python(["-c", probe, tmp_path])
    assert theirs.stdout.split() == ours, theirs.stderr
    assert len(set(ours)) == 2


def test_torchvision_downloads_an_archive_and_unpickles_nothing(
    tmp_path, cifar, monkeypatch
):
    import torchvision.datasets.utils as utils

    def download_url(url, root, filename, md5):
        assert md5 == "c58f30108f718f92721af3b95e74349a"
        write_cifar(root, filename)
        publish(monkeypatch, root / filename)

    monkeypatch.setattr(utils, "download_url", download_url)
    assert acquire.main(["cifar10", "--root", str(tmp_path)]) == 0
    assert decoded.verify("cifar10", tmp_path)["source"].startswith("torchvision ")
    assert os.listdir(tmp_path / "cifar10") == ["decoded"]
