"""A folder of image files becomes verified arrays once, or is refused by name."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from data import folder
from data.dataset import acquire, load
from recipe.errors import ConfigError, DataError

CLASSES = {"cat": 6, "dog": 11, "10": 3}  # images of each
SHAPE = [6, 5, 1]


def write_images(root, classes=CLASSES, first=0):
    """PNGs of 6x5 random pixels, in a folder for each class."""
    for number, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for image in range(first, first + count):
            pixels = np.random.default_rng([number, image]).integers(256, size=(6, 5))
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{image}.png")
    return root


def write_csv(file, root):
    """Lists every image below a folder, with the name of its folder as label."""
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "label"])
        for image in sorted(root.rglob("*.png"), reverse=True):
            rows.writerow([image.relative_to(file.parent), image.parent.name])
    return file


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


@pytest.fixture
def parts(tmp_path):
    """Training and test images apart."""
    write_images(tmp_path / "parts" / "train")
    write_images(tmp_path / "parts" / "test", dict.fromkeys(CLASSES, 2), first=50)
    return tmp_path / "parts"


@pytest.fixture
def given(tmp_path, config):
    """`given(files, classes=3)`: the config; arrays are stored apart from images."""

    def given(files, **changes):
        fields = {"image_shape": SHAPE, "classes": 3, "root": str(tmp_path / "root")}
        return config("folder", files=str(files), **{**fields, **changes})

    return given


def taken(data):
    acquire(data)
    return load(data)


def test_images_are_split_class_by_class_and_labelled_in_sorted_order(given, images):
    dataset = taken(given(images))
    assert folder.class_names(given(images)) == ["10", "cat", "dog"]
    np.testing.assert_array_equal(np.bincount(dataset.test_labels), [1, 1, 2])
    np.testing.assert_array_equal(np.bincount(dataset.train_labels), [2, 5, 9])
    found = {image.tobytes() for image in dataset.train_images}
    tested = {image.tobytes() for image in dataset.test_images}
    assert len(found) == 16 and len(tested) == 4 and not found & tested


def test_each_image_has_its_class(given, images):
    dataset = taken(given(images))
    for image, label in zip(dataset.train_images, dataset.train_labels, strict=True):
        name = ["10", "cat", "dog"][label]
        files = (images / name).glob("*.png")
        assert any((np.asarray(Image.open(f)) == image[..., 0]).all() for f in files)


def test_a_split_is_its_seed_s_and_of_each_class_by_itself(given, images):
    def tested(**changes):
        return {e.path.relative_to(images) for e in listing(**changes).test}

    def listing(**changes):
        return folder.list_images(given(images, **changes))

    assert tested() == tested() != tested(split_seed=1)
    assert len(tested(test_fraction=0.5)) == 3 + 6 + 2
    before = tested()
    shutil.rmtree(images / "cat")
    assert tested(classes=2) == {path for path in before if path.parts[0] != "cat"}


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_parts_that_are_there_are_kept(given, parts, name):
    (parts / "test").rename(parts / name)
    dataset = taken(given(parts))
    assert len(dataset.train_images) == 20 and len(dataset.test_images) == 6


def test_csvs_and_folders_of_the_same_images_give_the_same_arrays(
    given, images, parts, tmp_path
):
    for part in "train", "test":
        write_csv(tmp_path / f"{part}.csv", parts / part)
    lists = tmp_path / "lists"
    shutil.copytree(parts, lists)
    for part in "train", "test":
        write_csv(lists / f"{part}.csv", lists / part)
    assert taken(given(lists)).fingerprint == taken(given(parts)).fingerprint
    one = write_csv(tmp_path / "all.csv", images)
    assert taken(given(one)).fingerprint == taken(given(images)).fingerprint


def test_images_elsewhere_are_the_same_dataset(given, images, tmp_path):
    before = taken(given(images)).fingerprint
    moved = shutil.copytree(images, tmp_path / "moved")
    assert taken(given(moved)).fingerprint == before
    assert taken(given(moved, split_seed=1)).fingerprint != before


@pytest.fixture
def decodings(monkeypatch):
    """Names of the files that have been decoded."""
    decoded = []
    prepare_file = folder.prepare_file

    def noted(path, *args):
        decoded.append(path.name)
        return prepare_file(path, *args)

    monkeypatch.setattr(folder, "prepare_file", noted)
    return decoded


def test_a_second_run_decodes_nothing_and_a_changed_file_is_decoded_anew(
    given, images, decodings
):
    before = taken(given(images)).fingerprint
    assert len(decodings) == 20
    assert taken(given(images)).fingerprint == before
    assert len(decodings) == 20
    changed = images / "cat" / "0.png"
    shutil.copy(images / "cat" / "1.png", changed)
    assert taken(given(images)).fingerprint != before
    assert len(decodings) == 40
    (images / "dog" / "7.png").unlink()
    assert len(taken(given(images)).train_labels) == 15


def test_a_touched_file_is_decoded_once_more_alone(given, images, decodings):
    before = taken(given(images)).fingerprint
    os.utime(images / "cat" / "0.png", (0, 0))
    assert taken(given(images)).fingerprint == before
    taken(given(images))
    assert len(decodings) == 40


def test_corrupt_arrays_are_refused_and_made_again(given, images):
    place = acquire(given(images))
    with open(f"{place}/test_images.npy", "ab") as file:
        file.write(b"more")
    with pytest.raises(DataError, match="test_images.npy is corrupt.*delete .*again"):
        load(given(images))
    assert len(taken(given(images)).test_labels) == 4


def test_what_is_decoded_is_described_with_its_mean(given, tmp_path, capsys):
    for name, level in ("a", 0), ("b", 255):
        (tmp_path / "two" / name).mkdir(parents=True)
        for image in range(3):
            flat = Image.new("L", (5, 6), level)
            flat.save(tmp_path / "two" / name / f"{image}.png")
    acquire(given(tmp_path / "two", classes=2))
    assert "4 training and 2 test images of 2 classes" in (
        said := capsys.readouterr().err
    )
    assert "data.mean=[0.5000] data.std=[0.5000]" in said


def test_names_may_come_in_another_order(given, images):
    named = given(images, class_names=["dog", "cat", "10"])
    assert folder.class_names(named) == ["dog", "cat", "10"]
    np.testing.assert_array_equal(np.bincount(taken(named).test_labels), [2, 1, 1])


def test_the_same_classes_in_another_order_are_stored_apart(given, images, decodings):
    named = given(images, class_names=["dog", "cat", "10"])
    for data in given(images), named, given(images), named:
        acquire(data)
    assert len(decodings) == 40


@pytest.mark.parametrize("lists", [False, True])
def test_test_images_that_are_not_used_are_named(given, parts, lists, capsys):
    shutil.copytree(parts / "test", parts / "val")
    if lists:
        for part in "train", "test", "val":
            write_csv(parts / f"{part}.csv", parts / part)
    assert len(taken(given(parts)).test_images) == 6
    assert f"; not used: val{'.csv' * lists}\n" in capsys.readouterr().err


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def a_folder_in(path):
    (path / "inner").mkdir()


BAD = {
    "truncated": (lambda r: cut(r / "cat" / "3.png"), "cat/3.png cannot be read"),
    "class without images": (lambda r: (r / "bird").mkdir(), "bird holds no images"),
    "other type": (
        lambda r: (r / "cat" / "a.gif").touch(),
        r"cat/a.gif is not called .png, .jpg, .jpeg; convert",
    ),
    "beside folders": (
        lambda r: shutil.copy(r / "cat" / "0.png", r),
        "holds 0.png beside its class folders",
    ),
    "csv of another name": (lambda r: (r / "all.csv").touch(), "give data.files=.*csv"),
    "folder in a class": (
        lambda r: a_folder_in(r / "dog"),
        "dog is a class folder and",
    ),
    "one image": (
        lambda r: [(r / "10" / f"{n}.png").unlink() for n in (0, 1)],
        "class 10 has one image, .*2.png",
    ),
    "one class": (
        lambda r: [shutil.rmtree(r / name) for name in ("10", "dog")],
        "holds one class, cat; at least two",
    ),
    "another count": (
        lambda r: shutil.rmtree(r / "dog"),
        "holds 2 classes, 10, cat, and data.classes=3; give data.classes=2",
    ),
    "no images": (
        lambda r: [shutil.rmtree(r / name) for name in CLASSES],
        "holds no images; a folder for each class",
    ),
    "no folder": (lambda r: shutil.rmtree(r), "images does not exist"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_wrong_in_a_folder_is_named_and_nothing_written(
    given, images, tmp_path, kind
):
    spoil, said = BAD[kind]
    spoil(images)
    with pytest.raises(DataError, match=said):
        acquire(given(images))
    assert not (tmp_path / "root").exists()


BAD_PARTS = {
    "unknown class": (
        lambda r: (r / "test" / "cat").rename(r / "test" / "cow"),
        "test/cow: class cow is unknown; .* are 10, cat, dog",
    ),
    "no test": (lambda r: shutil.rmtree(r / "test"), "has a folder train and none"),
}


@pytest.mark.parametrize("kind", BAD_PARTS)
def test_what_is_wrong_between_parts_is_named(given, parts, kind):
    spoil, said = BAD_PARTS[kind]
    spoil(parts)
    with pytest.raises(DataError, match=said):
        acquire(given(parts))


BAD_CSV = {
    "unknown label": ("path,label\ntest/cat/50.png,cow\n", "line 2: class cow is unkn"),
    "missing file": ("path,label\ntest/a.png,cat\n", "line 2: .*a.png does not exist"),
    "listed twice": ("path,label\n" + 2 * "test/cat/50.png,cat\n", "line 3: .* twice"),
    "in both": ("path,label\ntrain/cat/0.png,cat\n", "0.png is listed in both"),
    "no label": ("path,label\ntest/cat/50.png\n", "line 2 lacks a path or a label"),
    "no header": ("test/cat/50.png,cat\n", "must begin with the line path,label, got"),
    "no images": ("path,label\n", "test.csv lists no images"),
    "binary": (b"path,label\n\xff\xfe", "test.csv is not a CSV in UTF-8"),
    "none": (None, "has a train.csv and no test.csv or val.csv"),
}


@pytest.mark.parametrize("kind", BAD_CSV)
def test_what_is_wrong_in_a_csv_is_named_with_its_line(given, parts, kind):
    content, said = BAD_CSV[kind]
    write_csv(parts / "train.csv", parts / "train")
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (parts / "test.csv").write_bytes(content)
    with pytest.raises(DataError, match=said):
        acquire(given(parts))


@pytest.mark.parametrize("listed", [["cat", "dog"], ["cat", "dog", "10", "cow"]])
def test_names_that_are_given_are_those_of_the_folders(given, images, listed):
    named = given(images, class_names=listed, classes=len(listed))
    with pytest.raises(DataError, match="class 10 is unknown|no training images of"):
        acquire(named)


def test_a_root_that_cannot_be_written_is_named_with_another_way(given, images):
    with pytest.raises(DataError, match="/dev/null/x: .*data.root=.* or .DUET_DATA"):
        acquire(given(images, root="/dev/null/x"))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("folder", {}, "data.files=None with data=folder"),
        ("folder", {"files": "a", "image_shape": [6, 5, 2]}, "grey or RGB"),
        ("folder", {"files": "a", "classes": 0}, "data=folder has classes"),
        ("folder", {"files": "a", "resize": "pad"}, "data.resize=pad is unknown"),
        ("folder", {"files": "a", "test_fraction": 1.0}, r"must lie in \(0, 1\)"),
        ("folder", {"files": "a", "class_names": ["a", "b"]}, "needs 10 different"),
        ("mnist", {"class_names": ["a"] * 10}, "needs 10 different names"),
        ("mnist", {"split_seed": 1}, "data.split_seed=1 is for data=folder"),
        ("custom", {"files": "a", "test_fraction": 0.3}, "is for data=folder"),
    ],
)
def test_keys_that_do_not_fit_are_refused(config, name, changes, said):
    with pytest.raises(ConfigError, match=said):
        config(name, **changes)
