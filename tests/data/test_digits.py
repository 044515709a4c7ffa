"""scikit-learn's digits, enlarged and split without chance."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from data.dataset import load
from data.digits import enlarge

# A change here is a change of the data: every earlier run on digits was another
# experiment.
GOLDEN = "81543ae57934c606950d0d39804f4cd84d29d15013e715b8fc561d08539fff8b"


@pytest.fixture(scope="module")
def original():
    return load_digits()


def test_digits_are_the_same_bytes_everywhere(config):
    assert load(config("digits")).fingerprint == GOLDEN


def test_every_fifth_digit_is_for_the_test_and_none_is_lost(config, original):
    digits = load(config("digits"))
    test = np.arange(1797) % 5 == 4
    np.testing.assert_array_equal(digits.test_labels, original.target[test])
    np.testing.assert_array_equal(digits.train_labels, original.target[~test])
    assert digits.train_images.shape == (1438, 28, 28, 1)
    assert digits.test_images.shape == (359, 28, 28, 1)


def test_the_original_can_be_read_back_from_the_centres(original):
    centres = enlarge(original.images)[:, 3:27:3, 3:27:3, 0]
    np.testing.assert_array_equal(np.rint(centres / 255 * 16), original.images)


def test_every_value_becomes_the_nearest_pixel():
    for value in range(17):
        pixel = enlarge(np.full((1, 8, 8), value))[0, 14, 14, 0]
        assert abs(pixel - value * 255 / 16) <= 0.5


def test_the_border_is_black(original):
    inside = np.zeros((28, 28), bool)
    inside[2:26, 2:26] = True
    large = enlarge(original.images)[..., 0]
    assert not large[:, ~inside].any()
    assert large[:, inside].any()
