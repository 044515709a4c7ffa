"""Acquiring: from every place, whole or not at all, and every failure in one line."""

import gzip
import hashlib
import http.client
import json
import os
import shutil
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from data import acquire, decoded, idx
from data.arrays import Arrays
from data.dataset import load
from recipe.errors import DataError

PLACES = {
    "mnist": [".", "mnist", "MNIST/raw"],
    "fashion_mnist": [".", "fashion_mnist", "FashionMNIST/raw"],
}
# Nobody listens on the discard port, so a download fails at once, network or not.
NO_NETWORK = {
    key: "http://127.0.0.1:9" for key in ("http_proxy", "https_proxy", "HTTPS_PROXY")
} | {"no_proxy": None, "NO_PROXY": None}


@pytest.fixture(autouse=True)
def no_system_copy(monkeypatch, tmp_path):
    """Debian's Fashion-MNIST is found unasked; a test that means it says so."""
    monkeypatch.setattr(acquire, "DEBIAN_FASHION_MNIST", tmp_path / "debian")


@pytest.fixture
def torchvision(monkeypatch):
    """In torchvision's place, so that neither torch nor a network is needed."""

    def stand_in(download):
        module = types.ModuleType("torchvision")
        module.__version__ = "0"
        module.datasets = types.SimpleNamespace(MNIST=download, FashionMNIST=download)
        utils = types.SimpleNamespace(download_url=None)
        monkeypatch.setitem(sys.modules, "torchvision", module)
        monkeypatch.setitem(sys.modules, "torchvision.datasets", module.datasets)
        monkeypatch.setitem(sys.modules, "torchvision.datasets.utils", utils)

    return stand_in


def run(name, root, *options):
    return acquire.main([name, "--root", str(root), *options])


def leftovers(root, name="mnist"):
    """Anything that an acquirer made besides the decoded folder."""
    return [path.name for path in (root / name).iterdir() if path.name[0] == "."]


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "name, place", [(name, place) for name in PLACES for place in PLACES[name]]
)
def test_an_archive_is_found_in_each_place_and_read_as_it_is(
    tmp_path, config, write_archive, name, place, gz
):
    expected = write_archive(tmp_path / place, gz=gz)
    assert run(name, tmp_path) == 0
    dataset = load(config(name))
    for field, array in expected._asdict().items():
        np.testing.assert_array_equal(np.squeeze(getattr(dataset, field)), array)
    assert isinstance(dataset.train_images, np.memmap)
    assert not leftovers(tmp_path, name)


def test_debian_s_folder_serves_fashion_mnist_only(
    tmp_path, config, write_archive, torchvision
):
    torchvision(lambda root, download: (_ for _ in ()).throw(OSError("offline")))
    write_archive(tmp_path / "debian", gz=True)
    assert run("fashion_mnist", tmp_path) == 0
    assert run("mnist", tmp_path) == 2


def test_the_place_named_after_the_dataset_wins(tmp_path, config, write_archive):
    write_archive(tmp_path, seed=1)
    expected = write_archive(tmp_path / "mnist", seed=2)
    run("mnist", tmp_path)
    np.testing.assert_array_equal(
        load(config("mnist")).test_labels, expected.test_labels
    )


def test_three_files_of_four_are_not_an_archive(tmp_path, write_archive):
    write_archive(tmp_path)
    paths = acquire.find([tmp_path], [idx.FILES])
    assert paths == [tmp_path / file for file in idx.FILES]
    paths[3].unlink()
    assert acquire.find([tmp_path], [idx.FILES]) is None


def test_the_manifest_says_what_lies_beside_it(tmp_path, config, write_archive):
    write_archive(tmp_path / "mnist")
    run("mnist", tmp_path)
    folder = decoded.decoded_folder("mnist", tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["source"] == str(tmp_path / "mnist")
    assert manifest["fingerprint"] == load(config("mnist")).fingerprint
    for file, entry in manifest["files"].items():
        content = (folder / file).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
        array = np.load(folder / file)
        assert (entry["shape"], entry["dtype"]) == (list(array.shape), str(array.dtype))


def test_an_intact_copy_is_left_alone_unless_asked(tmp_path, write_archive, capsys):
    write_archive(tmp_path, seed=1)
    run("mnist", tmp_path)
    before = decoded.verify("mnist", tmp_path)
    write_archive(tmp_path, seed=2)
    assert run("mnist", tmp_path) == 0
    assert "intact" in capsys.readouterr().out
    assert decoded.verify("mnist", tmp_path) == before
    assert run("mnist", tmp_path, "--again") == 0
    assert decoded.verify("mnist", tmp_path) != before
    assert not leftovers(tmp_path)


def test_a_corrupt_copy_is_decoded_again_and_that_is_said(
    tmp_path, write_archive, capsys
):
    write_archive(tmp_path)
    run("mnist", tmp_path)
    (decoded.decoded_folder("mnist", tmp_path) / "test_labels.npy").write_bytes(b"")
    assert run("mnist", tmp_path) == 0
    assert "again, because" in capsys.readouterr().out
    decoded.verify("mnist", tmp_path)


def test_a_corrupt_file_is_named_and_leaves_nothing_behind(
    tmp_path, write_archive, capsys
):
    write_archive(tmp_path / "mnist")
    path = tmp_path / "mnist" / idx.FILES[0]
    path.write_bytes(path.read_bytes()[:-1])
    assert run("mnist", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {path}: truncated")
    assert error.count("\n") == 1
    assert len(list((tmp_path / "mnist").iterdir())) == 4


def test_a_label_out_of_range_is_named_with_file_and_place(
    tmp_path, write_archive, as_idx, capsys
):
    labels = write_archive(tmp_path, gz=True).test_labels.copy()
    labels[7] = 10
    path = tmp_path / f"{idx.FILES[3]}.gz"
    path.write_bytes(gzip.compress(as_idx(labels)))
    assert run("mnist", tmp_path) == 2
    assert f"{path}[7] = 10 is not in [0, 10)" in capsys.readouterr().err


def test_images_of_another_size_are_refused(tmp_path, write_archive, as_idx, capsys):
    write_archive(tmp_path)
    path = tmp_path / idx.FILES[2]
    path.write_bytes(as_idx(np.zeros((10, 32, 32), np.uint8)))
    assert run("mnist", tmp_path) == 2
    assert f"{path} holds images of shape [32, 32, 1]" in capsys.readouterr().err


@pytest.mark.parametrize("options", [(), ("--again",)], ids=["", "again"])
def test_a_root_that_cannot_hold_a_folder_is_one_clear_error(tmp_path, options, capsys):
    (tmp_path / "file").write_text("")
    assert run("mnist", tmp_path / "file", *options) == 2
    error = capsys.readouterr().err
    assert f"cannot write datasets under {tmp_path / 'file'}" in error
    assert error.count("\n") == 1


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_behind(
    tmp_path, write_archive, monkeypatch, capsys
):
    write_archive(tmp_path)

    def full(stream, array):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        assert run("mnist", tmp_path) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "mnist").exists()
    assert run("mnist", tmp_path) == 0


def test_a_download_is_decoded_and_its_own_files_are_not_kept(
    tmp_path, config, write_archive, torchvision
):
    torchvision(lambda root, download: write_archive(root / "MNIST" / "raw"))
    assert run("mnist", tmp_path) == 0
    assert decoded.verify("mnist", tmp_path)["source"] == "torchvision 0"
    assert len(load(config("mnist")).train_images) == 20
    assert os.listdir(tmp_path / "mnist") == ["decoded"]


@pytest.mark.parametrize(
    "failure",
    [OSError("name\nunknown"), RuntimeError("MD5"), http.client.IncompleteRead(b"")],
    ids=["offline", "checksum", "cut off"],
)
def test_a_failed_download_says_in_one_line_what_to_put_where(
    tmp_path, torchvision, capsys, failure
):
    def download(root, download):
        print("Failed to download (trying next):")
        raise failure

    torchvision(download)
    assert run("fashion_mnist", tmp_path) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert all(file in err for file in idx.FILES)
    assert f"into {tmp_path / 'fashion_mnist'}" in err
    assert "dataset-fashion-mnist" in err
    assert "Failed to download" not in out
    assert not list(tmp_path.iterdir())


def test_torchvision_itself_offline_is_one_clear_error(tmp_path, run_python):
    done = run_python(["-m", "data.acquire", "mnist", "--root", tmp_path], **NO_NETWORK)
    assert done.returncode == 2
    assert done.stderr.startswith("error: mnist is not on this machine")
    assert done.stderr.count("\n") == 1
    assert "Error downloading train-images-idx3-ubyte.gz" in done.stderr
    assert "dataset-fashion-mnist" not in done.stderr


def test_processes_at_once_all_succeed(tmp_path, config, write_archive, run_python):
    write_archive(tmp_path, train=20_000)
    command = ["-m", "data.acquire", "mnist", "--root", tmp_path, "--again"]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(run_python, [command] * 3))
    assert [process.stderr for process in done] == [""] * 3
    assert [process.returncode for process in done] == [0] * 3
    assert len(load(config("mnist")).train_images) == 20_000
    assert not leftovers(tmp_path)


def test_a_plain_rename_would_let_the_second_acquirer_fail(tmp_path):
    for name in "first", "second":
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        (tmp_path / "second").rename(tmp_path / "first")


def test_the_second_acquirer_leaves_the_first_one_s_files(tmp_path, write_archive):
    write_archive(tmp_path)
    run("mnist", tmp_path)
    folder = decoded.decoded_folder("mnist", tmp_path)
    first = folder.stat().st_ino
    run("mnist", tmp_path, "--again")
    assert folder.stat().st_ino == first
    (folder / "manifest.json").write_text("{")
    run("mnist", tmp_path)
    assert folder.stat().st_ino != first


@pytest.fixture
def published(tmp_path, write_archive, monkeypatch):
    """A made archive in the root, as the one that Fashion-MNIST is published as."""
    arrays = write_archive(tmp_path)
    sums = [hashlib.sha256((tmp_path / f).read_bytes()).hexdigest() for f in idx.FILES]
    monkeypatch.setitem(idx.PUBLISHED, "fashion_mnist", tuple(sums))
    monkeypatch.setattr(idx, "PUBLISHED_EXAMPLES", (20, 20, 10, 10))
    return arrays


@pytest.mark.usefixtures("published_alone")
def test_another_dataset_s_files_are_refused(tmp_path, published, capsys):
    assert run("fashion_mnist", tmp_path) == 0
    assert run("mnist", tmp_path) == 2
    assert f"{tmp_path / idx.FILES[0]} is of fashion_mnist" in capsys.readouterr().err


@pytest.mark.usefixtures("published_alone")
@pytest.mark.parametrize("field", range(4))
def test_the_file_is_named_that_differs_from_the_published(
    tmp_path, published, as_idx, field, capsys
):
    path = tmp_path / idx.FILES[field]
    path.write_bytes(as_idx(published[field][::-1]))
    assert run("fashion_mnist", tmp_path) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path} is not that of fashion_mnist as published")


@pytest.mark.usefixtures("published_alone")
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_other_images_in_files_called_as_the_published_are_refused(
    tmp_path, write_archive, capsys, name
):
    write_archive(tmp_path, train=300, test=50)
    assert run(name, tmp_path) == 2
    error = capsys.readouterr().err
    for part in (
        f"error: {tmp_path / idx.FILES[0]} is not that of {name} as published, 300 ex",
        "and not 60,000",
        "on purpose by data=custom data.files=FOLDER",
    ):
        assert part in error
    assert not decoded.decoded_folder(name, tmp_path).exists()


@pytest.mark.usefixtures("published_alone")
def test_a_copy_that_was_decoded_of_other_images_is_found_out(tmp_path, write_archive):
    arrays = write_archive(tmp_path)
    images = [a[..., None] if a.ndim == 3 else a.astype(np.int32) for a in arrays]
    (tmp_path / "mnist").mkdir()
    decoded.write("mnist", tmp_path, Arrays(*images), "an older version")
    with pytest.raises(DataError, match="train_images.npy is not that of mnist as"):
        decoded.verify("mnist", tmp_path)


def test_a_root_that_is_only_read_is_decoded_into_another(
    tmp_path, config, write_archive, monkeypatch, capsys
):
    archives = tmp_path / "archives"
    write_archive(archives / "MNIST" / "raw")

    def read_only(path, *mode, **options):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:  # root may write anywhere, so it is played
        patch.setattr("pathlib.Path.mkdir", read_only)
        assert run("mnist", archives) == 2
    assert f"--archives {archives} --root FOLDER" in capsys.readouterr().err
    assert run("mnist", tmp_path / "root", "--archives", str(archives)) == 0
    assert len(load(config("mnist", root=str(tmp_path / "root"))).train_images) == 20


def test_a_failed_acquisition_leaves_no_folder_that_was_not_there(
    tmp_path, torchvision
):
    torchvision(lambda root, download: (_ for _ in ()).throw(OSError("offline")))
    (tmp_path / "kept").mkdir()
    for root in tmp_path / "made" / "deep", tmp_path / "kept":
        assert run("mnist", root) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert not list((tmp_path / "kept").iterdir())


def test_torchvision_s_reader_agrees_with_ours(
    tmp_path, config, write_archive, fashion_mnist, run_python, monkeypatch
):
    write_archive(tmp_path / "MNIST" / "raw")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in idx.FILES:
        with (
            gzip.open(fashion_mnist / f"{file}.gz") as packed,
            (raw / file).open("wb") as plain,
        ):
            shutil.copyfileobj(packed, plain)
    probe = """
import hashlib, sys, torchvision
for name in "MNIST", "FashionMNIST":
    for train in True, False:
        split = getattr(torchvision.datasets, name)(sys.argv[1], train=train)
        for tensor in split.data, split.targets.int():
            print(hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
"""
    theirs = run_python(["-c", probe, tmp_path])
    assert theirs.returncode == 0, theirs.stderr
    ours = []
    for name in "mnist", "fashion_mnist":
        run(name, tmp_path)
        dataset = load(config(name))
        ours += [
            hashlib.sha256(np.ascontiguousarray(getattr(dataset, field))).hexdigest()
            for field in Arrays._fields
        ]
    assert theirs.stdout.split() == ours
    assert len(set(ours)) == 8
