"""Custom images: read unchanged, or refused naming file, array and what to do."""

import gzip
import struct

import numpy as np
import pytest

from data.dataset import load
from recipe.errors import ConfigError, DataError

RANDOM = np.random.default_rng(0)
TRAIN, TEST = (RANDOM.integers(256, size=(n, 6, 5, 3), dtype=np.uint8) for n in (9, 4))
LABELS = np.arange(9) % 4, np.arange(4)
OURS = ("train_images", "train_labels", "test_images", "test_labels")
KERAS = ("x_train", "y_train", "x_test", "y_test")


@pytest.fixture
def custom(tmp_path, config):
    """`custom(names, label_offset=1, train_labels=...)`: an .npz, and its config."""

    def make(names=OURS, *, classes=4, label_offset=0, **changed):
        given = dict(zip(OURS, (TRAIN, LABELS[0], TEST, LABELS[1]), strict=True))
        given |= changed
        shown = {new: given[old] for new, old in zip(names, OURS, strict=True)}
        np.savez(tmp_path / "mine.npz", **shown)
        fields = {"image_shape": [6, 5, 3], "classes": classes}
        fields["label_offset"] = label_offset
        return config("custom", files=str(tmp_path / "mine.npz"), **fields)

    return make


@pytest.mark.parametrize("names", [OURS, KERAS])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
@pytest.mark.parametrize("column", [False, True])
def test_an_npz_is_read_as_it_is_whatever_whole_numbers_its_labels_are(
    custom, names, dtype, column
):
    shape = (-1, 1) if column else (-1,)
    labels = LABELS[0].astype(dtype).reshape(shape)
    dataset = load(custom(names, train_labels=labels))
    np.testing.assert_array_equal(dataset.train_images, TRAIN)
    np.testing.assert_array_equal(dataset.test_images, TEST)
    np.testing.assert_array_equal(dataset.train_labels, LABELS[0])
    assert dataset.train_labels.dtype == np.int32


def test_labels_may_count_from_another_number(custom):
    moved = {"train_labels": LABELS[0] + 1, "test_labels": LABELS[1] + 1}
    dataset = load(custom(label_offset=1, **moved))
    np.testing.assert_array_equal(dataset.test_labels, LABELS[1])
    with pytest.raises(
        DataError, match="train_labels holds labels from 1 to 4; data.c"
    ):
        load(custom(**moved))


def test_grey_images_need_no_axis_for_their_channel(custom, config, tmp_path):
    given = custom(train_images=TRAIN[..., 0], test_images=TEST[..., 0])
    given.image_shape = [6, 5, 1]
    assert load(given).train_images.shape == (9, 6, 5, 1)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_images": TRAIN / 255}, "images must be uint8.* got float64"),
        ({"train_images": TRAIN.transpose(0, 3, 1, 2)}, "channels first; put"),
        ({"test_images": TEST[:, :3]}, r"images of shape \[3, 5, 3\]"),
        ({"test_images": TEST[:2]}, "has 2 examples, but .*test_labels has"),
        ({"train_labels": LABELS[0] / 1}, "train_labels must be integers"),
        ({"train_labels": np.eye(4, dtype=int)[LABELS[0]]}, "convert one-hot rows"),
        ({"test_labels": LABELS[1] - 1}, "labels from -1 to 2; .* takes 0 to 3"),
        ({"test_labels": np.array([None] * 4)}, "is not a complete .npz of numbers"),
        ({"names": ("a", "b", "c", "d")}, "contains a, b, c, d; expected names are"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_file_and_array(
    custom, tmp_path, changed, said
):
    with pytest.raises(DataError, match=said) as refused:
        load(custom(**changed))
    assert str(tmp_path / "mine.npz") in str(refused.value)


@pytest.mark.parametrize("content", [None, b"", b"PK half of one"])
def test_a_missing_or_damaged_npz_is_named(custom, tmp_path, content):
    given = custom()
    (tmp_path / "mine.npz").unlink()
    if content is not None:
        (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(DataError, match="mine.npz"):
        load(given)


def emnist(folder, as_idx, start="emnist-letters", gz=True):
    """Four files as EMNIST calls them: labels from 1."""
    folder.mkdir(exist_ok=True)
    for split, images, labels in (
        ("train", TRAIN[..., 0], LABELS[0] + 1),
        ("test", TEST[..., 0], LABELS[1] + 1),
    ):
        for kind, array in ("images-idx3", images), ("labels-idx1", labels):
            content = as_idx(array.astype(np.uint8))
            name = f"{start}-{split}-{kind}-ubyte" + gz * ".gz"
            (folder / name).write_bytes(gzip.compress(content) if gz else content)


@pytest.fixture
def letters(config):
    def make(files):
        shape = {"image_shape": [6, 5, 1], "classes": 4, "label_offset": 1}
        return config("custom", files=str(files), **shape)

    return make


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gzip"])
def test_four_idx_files_are_found_by_folder_or_by_the_beginning_of_their_names(
    tmp_path, as_idx, letters, gz
):
    emnist(tmp_path / "emnist", as_idx, gz=gz)
    dataset = load(letters(tmp_path / "emnist"))
    np.testing.assert_array_equal(dataset.train_images[..., 0], TRAIN[..., 0])
    np.testing.assert_array_equal(dataset.test_labels, LABELS[1])
    emnist(tmp_path / "emnist", as_idx, "emnist-digits")
    with pytest.raises(
        DataError, match="2 files are called train and images .*letters"
    ):
        load(letters(tmp_path / "emnist"))
    one = load(letters(tmp_path / "emnist" / "emnist-letters"))
    assert one.fingerprint == dataset.fingerprint


def test_labels_of_four_bytes_are_read_and_half_an_archive_is_not(
    tmp_path, as_idx, letters
):
    emnist(tmp_path / "emnist", as_idx, gz=False)
    path = tmp_path / "emnist" / "emnist-letters-test-labels-idx1-ubyte"
    values = (LABELS[1] + 1).astype(">i4")
    path.write_bytes(struct.pack(">BBBBI", 0, 0, 0x0C, 1, 4) + values.tobytes())
    np.testing.assert_array_equal(
        load(letters(tmp_path / "emnist")).test_labels, LABELS[1]
    )
    path.unlink()
    with pytest.raises(DataError, match="0 files are called t10k or test and labels,"):
        load(letters(tmp_path / "emnist"))


# As they are published; labels of QMNIST are rows of eight numbers, the class first.
PUBLISHED = {
    "emnist": "emnist-balanced-{}-{}-{}-ubyte.gz",
    "kmnist": "{}-{}-{}-ubyte.gz",
    "qmnist": "qmnist-{}-{}-{}.gz",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_relatives_of_mnist_are_read_under_their_published_names(
    tmp_path, as_idx, config, name
):
    for split, images, labels in (
        ("train", TRAIN[..., 0], LABELS[0]),
        ("t10k" if name == "kmnist" else "test", TEST[..., 0], LABELS[1]),
    ):
        kinds = {"images": ("idx3", as_idx(images)), "labels": ("idx1", None)}
        if name == "qmnist":
            rows = np.stack([labels, *[labels + 100] * 7], axis=1).astype(">i4")
            header = struct.pack(">4B2I", 0, 0, 0x0C, 2, *rows.shape)
            kinds = {"images": ("idx3-ubyte", kinds["images"][1])}
            kinds["labels"] = "idx2-int", header + rows.tobytes()
        else:
            kinds["labels"] = "idx1", as_idx(labels.astype(np.uint8))
        for kind, (form, content) in kinds.items():
            file = PUBLISHED[name].format(split, kind, form)
            (tmp_path / file).write_bytes(gzip.compress(content))
    fields = {"image_shape": [6, 5, 1], "classes": 4}
    dataset = load(config("custom", files=str(tmp_path), **fields))
    np.testing.assert_array_equal(dataset.train_labels, LABELS[0])
    np.testing.assert_array_equal(dataset.test_images[..., 0], TEST[..., 0])


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("custom", {}, "data.files=None with data=custom: data=custom and"),
        ("mnist", {"files": "a"}, "data.files=a with data=mnist"),
        ("mnist", {"label_offset": 1}, "data.label_offset=1 is for data=custom"),
    ],
)
def test_files_belong_to_custom_data_alone(config, name, fields, said):
    with pytest.raises(ConfigError, match=said):
        config(name, **fields)
