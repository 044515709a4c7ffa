"""`model.json` beside exported files: what they take, what they return, what was found.

Whoever loads a file needs nothing else: the images' shape and preparation, the labels,
each file's SHA-256 and calling convention, and how far its logits were from the trained
model's.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from recipe.errors import RecordError
from recipe.experiment import RESIZES

MANIFEST = "model.json"
MANIFEST_VERSION = 1

Kind = TypeVar("Kind")


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How an image becomes the model's input, and what the model does to it first.

    Args:
      height, width: in pixels, that images are resized to.
      channels: 1, grey, or 3, RGB.
      resize: how images of another size get to it, as `data/prepare.py` names it.
      mean, std: of pixels in [0, 1], for each channel. The graph itself computes
        (pixel / 255 - mean) / std, so images stay uint8; with plain weights
        (safetensors) whoever loads them does.
    """

    height: int
    width: int
    channels: int
    resize: str
    mean: list[float]
    std: list[float]


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output: its name, shape ("batch" is any), layout and dtype."""

    name: str
    shape: list[Any]
    layout: str
    dtype: str


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One exported file.

    Args:
      file: its name in the folder.
      sha256: of its content.
      bytes: its size.
      convention: how it is called, such as the opset of ONNX; by name.
      measured: what a process without Duet found that loaded it; by name.
    """

    file: str
    sha256: str
    bytes: int
    convention: dict[str, Any]
    measured: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """An export folder.

    Args:
      name: the experiment's.
      model: the architecture's name.
      framework: that trained it, "torch" or "jax".
      run: the run folder's name.
      config_hash: SHA-256 of the recipe.
      data, data_fingerprint: the dataset's name, and SHA-256 of its arrays.
      labels: of the outputs in order; empty for a regression.
      test: the trained model in fp32 on the whole test set: its examples, and with
        classes how many were right, accuracy and its 95 % interval.
      versions: of the packages that wrote the files.
      files: format -> file.
    """

    schema_version: int
    name: str
    model: str
    framework: str
    run: str
    config_hash: str
    data: str
    data_fingerprint: str
    input: Tensor
    output: Tensor
    pixels: Pixels
    labels: list[str]
    test: dict[str, Any]
    versions: dict[str, Any]
    files: dict[str, ModelFile]

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, allow_nan=False) + "\n").encode()


def model_file(
    path: Path, convention: dict[str, Any], measured: dict[str, Any]
) -> ModelFile:
    """The entry of a file that is there."""
    return ModelFile(
        file=path.name,
        sha256=_sha256(path),
        bytes=path.stat().st_size,
        convention=convention,
        measured=measured,
    )


def read_manifest(folder: Path, formats: Collection[str] | None = None) -> Manifest:
    """The manifest of an export folder, its files compared with their SHA-256.

    Args:
      formats: whose files are compared; None for all.

    Raises:
      RecordError: naming the file and what is missing, wrong or changed.
    """
    path = folder / MANIFEST
    try:
        given = json.loads(path.read_bytes())
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read: {error.strerror}; launch/export.py writes it "
            "beside the files that it exports"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not JSON: {error}") from error
    version = given.get("schema_version") if isinstance(given, dict) else None
    if isinstance(version, int) and version != MANIFEST_VERSION:
        raise RecordError(
            f"{path} has schema {version}; this version of Duet reads "
            f"{MANIFEST_VERSION}"
        )
    manifest = _read(Manifest, given, str(path))
    _check_values(manifest, str(path))
    check_files(folder, manifest, manifest.files if formats is None else formats)
    return manifest


def check_files(folder: Path, manifest: Manifest, formats: Collection[str]) -> None:
    """Compare the files of these formats with their SHA-256.

    Raises:
      RecordError: naming the file that is missing or changed.
    """
    for name in formats:
        _check_file(folder, manifest.files[name], f"{folder / MANIFEST}: {name}")


def _check_values(manifest: Manifest, where: str) -> None:
    """Refuse numbers and names that no export has."""
    pixels, labels = manifest.pixels, manifest.labels
    shape = [pixels.height, pixels.width, pixels.channels]
    outputs = manifest.output.shape[-1:]
    wrong = {
        "pixels: height and width": min(shape) < 1,
        "pixels: channels": pixels.channels not in (1, 3),
        "pixels: resize": pixels.resize not in RESIZES,
        "pixels: mean": not _are_numbers(pixels.mean, pixels.channels),
        "pixels: std": not _are_numbers(pixels.std, pixels.channels),
        "input: shape": manifest.input.shape[1:] != shape,
        "labels": not all(type(label) is str for label in labels)
        or len(labels) not in (0, *outputs),
    }
    if bad := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise RecordError(
            f"{where}: {', '.join(bad)} cannot be right; export again, or restore the "
            "manifest that was written with these files"
        )


def _are_numbers(values: list[Any], count: int) -> bool:
    return len(values) == count and all(type(v) in (int, float) for v in values)


def _check_file(folder: Path, entry: ModelFile, where: str) -> None:
    if Path(entry.file).name != entry.file:
        raise RecordError(f"{where}: {entry.file!r} is not a file of this folder")
    path = folder / entry.file
    try:
        found = _sha256(path)
    except OSError as error:
        raise RecordError(
            f"{where}: {path} cannot be read: {error.strerror}"
        ) from error
    if found != entry.sha256:
        raise RecordError(
            f"{where}: {path} is not the file that was exported: its SHA-256 differs; "
            "export again into another folder"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(kind: type[Kind], given: Any, where: str) -> Kind:
    """A JSON object as a dataclass, every field present and of its type."""
    if not isinstance(given, dict):
        raise RecordError(f"{where} holds no object")
    hints = get_type_hints(kind)
    if missing := hints.keys() - given.keys():
        raise RecordError(f"{where} lacks {', '.join(sorted(missing))}")
    if unknown := given.keys() - hints.keys():
        raise RecordError(f"{where} has unknown {', '.join(sorted(unknown))}")
    values = {}
    for field in fields(kind):  # pyright: ignore[reportArgumentType]  a dataclass
        value, hint = given[field.name], hints[field.name]
        wanted = get_origin(hint) or hint
        if is_dataclass(hint) and isinstance(hint, type):
            value = _read(hint, value, f"{where}: {field.name}")
        elif type(value) is not wanted:
            raise RecordError(
                f"{where}: {field.name} is {value!r}, expected {wanted.__name__}"
            )
        elif hint == dict[str, ModelFile]:
            value = {n: _read(ModelFile, v, f"{where}: {n}") for n, v in value.items()}
        values[field.name] = value
    return kind(**values)
