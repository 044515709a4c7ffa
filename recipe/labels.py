"""Names of the classes of a dataset, in the order of their labels."""

from recipe.experiment import DataConfig

DIGITS = tuple("0123456789")
# Xiao et al., Fashion-MNIST, 2017; Krizhevsky, Learning Multiple Layers of Features
# from Tiny Images, 2009.
LABELS = {
    "digits": DIGITS,
    "mnist": DIGITS,
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}


def class_labels(data: DataConfig) -> list[str]:
    """The name of each class, its number where none is known; empty for a regression.

    Names are `data.class_names`, else those of a published dataset.
    Numbers start at `data.label_offset`, as in the files of `data=custom`.
    """
    if data.class_names is not None:
        return data.class_names
    numbers = range(data.label_offset, data.label_offset + data.classes)
    return list(LABELS.get(data.name, map(str, numbers)))
