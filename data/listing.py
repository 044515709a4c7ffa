"""The image files of `data=folder` with their classes: from folders, or from CSVs."""

import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from data.prepare import SUFFIXES
from recipe.errors import DataError

TEST_PARTS = ("test", "val", "valid", "validation")  # the first that is there
COLUMNS = ("path", "label")
NO_IMAGES = ("Thumbs.db", "desktop.ini")  # that file managers leave; hidden ones too
EXPECTED = (
    "a folder for each class, a train and a test folder of such, or train.csv and "
    "test.csv are expected (docs/own-images.md)"
)

Known = list[str] | None  # classes that images may have; None: any


class Example(NamedTuple):
    """One file, and its class."""

    path: Path
    label: str


class Parts(NamedTuple):
    """The examples of a dataset.

    Args:
      train: or all, to be split.
      test: None where they are to be split off.
      unused: folders or CSVs of test images that another name came before.
    """

    train: list[Example]
    test: list[Example] | None = None
    unused: tuple[str, ...] = ()


def listed(root: Path, known: Known) -> Parts:
    """Every example, in files that are there.

    Raises:
      DataError: naming the folder, the file or the line that is wrong.
    """
    if not root.exists():
        raise DataError(f"data.files={root} does not exist")
    return _from_csv(root, known) or _from_folders(root, known)


def enumerated(names: Collection[str], most: int = 12) -> str:
    """The first few of them, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _labels(examples: list[Example]) -> list[str]:
    return sorted({example.label for example in examples})


def _check_known(label: str, known: Known, where: str) -> None:
    if known is not None and label not in known:
        raise DataError(
            f"{where}: class {label} is unknown; the classes of the training images, "
            f"or data.class_names, are {enumerated(known)}"
        )


def _from_folders(root: Path, known: Known) -> Parts:
    folders, files = _content(root)
    if not folders:
        held = f"{len(files)} images in no class folder" if files else "no images"
        raise DataError(f"data.files={root} holds {held}; {EXPECTED}")
    names = {folder.name for folder in folders}
    if "train" in names and names <= {"train", *TEST_PARTS}:
        tests = [part for part in TEST_PARTS if part in names]
        if not tests:
            raise DataError(
                f"data.files={root} has a folder train and none called test or val; "
                f"add one, or give data.files={root / 'train'}, which is then split"
            )
        train = list(_of_classes(root / "train", known))
        known = known or _labels(train)
        test = list(_of_classes(root / tests[0], known))
        return Parts(train, test, tuple(tests[1:]))
    return Parts(list(_of_classes(root, known)))


def _of_classes(root: Path, known: Known) -> Iterator[Example]:
    folders, files = _content(root)
    if files or not folders:
        held = f"{files[0].name} beside its class folders" if folders else "no folders"
        raise DataError(f"{root} holds {held}; {EXPECTED}")
    for folder in folders:
        _check_known(folder.name, known, str(folder))
        inside, images = _content(folder)
        if inside:
            raise DataError(
                f"{folder} is a class folder and holds the folder {inside[0].name}; "
                "put images directly into class folders"
            )
        if not images:
            raise DataError(
                f"class folder {folder} holds no images; add some, or remove it"
            )
        yield from (Example(image, folder.name) for image in images)


def _content(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the images in a folder, without hidden ones."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    entries = [e for e in entries if e.name[0] != "." and e.name not in NO_IMAGES]
    folders, files = [], []
    for entry in entries:
        (folders if entry.is_dir() else files).append(entry)
    for file in files:
        if file.suffix.lower() not in SUFFIXES:
            csv_file = file.suffix.lower() == ".csv"
            raise DataError(
                f"{file} is not called {', '.join(SUFFIXES)}; "
                + (f"give data.files={file}" if csv_file else "convert or remove it")
            )
    return folders, files


def _from_csv(root: Path, known: Known) -> Parts | None:
    """None if there is no CSV."""
    if root.is_file():
        if root.suffix.lower() != ".csv":
            raise DataError(f"data.files={root} is a file, not a CSV; {EXPECTED}")
        return Parts(_read_csv(root, known))
    train = root / "train.csv"
    if not train.exists():
        return None
    names = [f"{part}.csv" for part in TEST_PARTS]
    tests = [root / name for name in names if (root / name).exists()]
    if not tests:
        raise DataError(
            f"data.files={root} has a train.csv and no test.csv or val.csv; add one, "
            f"or give data.files={train}, which is then split"
        )
    found = _read_csv(train, known)
    tested = _read_csv(tests[0], known or _labels(found))
    in_both = {e.path for e in found} & {e.path for e in tested}
    if in_both:
        raise DataError(f"{min(in_both)} is listed in both {train} and {tests[0]}")
    return Parts(found, tested, tuple(path.name for path in tests[1:]))


def _read_csv(file: Path, known: Known) -> list[Example]:
    """A CSV's examples; paths are relative to its folder."""
    examples: list[Example] = []
    seen: set[Path] = set()
    try:
        # A spreadsheet writes a byte-order mark.
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            if not {*COLUMNS} <= {*(rows.fieldnames or ())}:
                raise DataError(
                    f"{file} must begin with the line {','.join(COLUMNS)}, got "
                    f"{','.join(rows.fieldnames or ()) or 'nothing'}"
                )
            for row in rows:
                where = f"{file} line {rows.line_num}"
                if not row["path"] or not row["label"]:
                    raise DataError(f"{where} lacks a path or a label")
                path = file.parent / row["path"]
                if not path.is_file():
                    raise DataError(f"{where}: {path} does not exist")
                if path in seen:
                    raise DataError(f"{where}: {path} is listed twice")
                _check_known(row["label"], known, where)
                seen.add(path)
                examples.append(Example(path, row["label"]))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a CSV in UTF-8: {error}") from error
    if not examples:
        raise DataError(f"{file} lists no images")
    return examples
