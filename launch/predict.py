"""Predict what is in images, by a trained model.

    python launch/predict.py runs/mine photo.png more-photos --csv predictions.csv

MODEL is a run folder, an export folder or a file in one. Each IMAGE is a PNG or JPEG
file, a folder of such, or an IDX file. Images are prepared as for `data=folder`: turned
as their EXIF orientation says, made grey or RGB, and resized as data.resize of the run
says.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import argparse
import csv
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.special import softmax

from data.inputs import Inputs, bright_at_the_border, read_inputs
from launch.cli import end_by_exception, plain_main, print_whole, say
from launch.models import Model, open_model
from recipe.errors import ConfigError, RecordError
from recipe.study import FRAMEWORKS

SHOWN = 40  # rows of the table; the CSV has all
DARK = 1 / 3  # training images are dark if their mean pixel is below it


def parser() -> argparse.ArgumentParser:
    """The command line."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write all predictions to a new file"
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="replace each pixel p by 255 - p, for dark strokes on a light background "
        "where the training images are light on dark",
    )
    parser.add_argument(
        "--framework",
        choices=FRAMEWORKS,
        help="which evaluates a run; by default the one that trained it",
    )
    return parser


def main(typed: list[str]) -> None:
    """Read the images, evaluate the model in a process of its own, print and write.

    Raises:
      DuetError: with what is wrong, in one line; nothing is written then.
    """
    given = parser().parse_args(typed)
    if given.csv is not None:
        check_place(given.csv)
    model = open_model(given.model, given.framework)
    prepared = model.image_shape, model.resize, given.invert
    inputs = read_inputs(given.images, *prepared)
    outputs = model.outputs(inputs.pixels)
    if given.csv is not None:
        write(given.csv, as_csv(model.labels, inputs, outputs))
    console = Console(highlight=False)
    print_whole(as_table(model.labels, inputs, outputs), console)
    if (hidden := len(inputs.names) - SHOWN) > 0:
        where = f"in {given.csv}" if given.csv else "for --csv FILE"
        say(console, f"and {hidden} more, {where}")
    if hint := seems_inverted(model, inputs, given.invert):
        say(console, hint)
    if given.csv is not None:
        say(console, f"predictions: {given.csv}")


def seems_inverted(model: Model, inputs: Inputs, inverted: bool) -> str:
    """One line where images are light at the border and the training's are dark."""
    mean = sum(model.mean) / len(model.mean)
    bright = np.flatnonzero(bright_at_the_border(inputs.pixels))
    if inverted or mean >= DARK or not len(bright):
        return ""
    return (
        f"{len(bright)} of {len(inputs.names)} images are mostly bright at the border, "
        f"such as {inputs.names[bright[0]]}, and the training images are dark "
        f"(data.mean {mean:.2f}); if these are dark on light, add --invert"
    )


def probabilities(outputs: Float[np.ndarray, "n K"]) -> Float[np.ndarray, "n K"]:
    """The softmax of logits, in float64."""
    return softmax(outputs.astype(np.float64), axis=1)


def as_table(
    labels: list[str], inputs: Inputs, outputs: Float[np.ndarray, "n K"]
) -> Table:
    """The first images: the label and its probability, and the next one's."""
    table = Table(box=SIMPLE_HEAD)
    columns = ("label", "probability", "next", "probability")
    table.add_column("image", no_wrap=True)
    for column in columns if labels else ("value",):
        table.add_column(column, no_wrap=True, justify="right")
    for name, row in zip(inputs.names[:SHOWN], outputs, strict=False):
        if not labels:
            table.add_row(escape(name), f"{row[0]:.6g}")
            continue
        (p,) = probabilities(row[np.newaxis])
        cells = []
        for place in np.argsort(-p, kind="stable")[:2]:
            cells += [escape(labels[place]), f"{p[place]:.4f}"]
        table.add_row(escape(name), *cells)
    return table


def as_csv(labels: list[str], inputs: Inputs, outputs: Float[np.ndarray, "n K"]) -> str:
    """A line for each image: its label, and the probability of every class."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    if not labels:
        rows.writerow(["path", "value"])
        values = outputs[:, 0].tolist()
        rows.writerows(zip(inputs.names, values, strict=True))
        return text.getvalue()
    rows.writerow(["path", "label", "probability", *(f"p_{n}" for n in labels)])
    for name, row in zip(inputs.names, probabilities(outputs), strict=True):
        best = row.argmax()
        rows.writerow([name, labels[best], float(row[best]), *row.tolist()])
    return text.getvalue()


def check_place(file: Path) -> None:
    """Refuse a file that exists, or whose folder does not.

    Raises:
      ConfigError: saying what is there.
    """
    if file.exists():
        raise ConfigError(
            f"--csv {file} is there already; nothing is overwritten: choose another "
            "file, or remove it"
        )
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"--csv {file}: there is no folder {file.parent}; make it")


def write(file: Path, text: str) -> None:
    """A new file, whole or not at all.

    Raises:
      RecordError: if it cannot be written.
    """
    try:
        # A name that is not UTF-8 is written as it is.
        with file.open("x", encoding="utf-8", errors="surrogateescape") as stream:
            try:
                stream.write(text)
                stream.flush()
            except OSError:
                file.unlink()
                raise
    except OSError as error:
        raise RecordError(f"--csv {file}: {error.strerror or error}") from error


if __name__ == "__main__":
    end_by_exception()  # so that the process of the framework ends as well
    plain_main(main)
