"""Export a finished run's model to files that need nothing of Duet.

    python launch/export.py run=DIR
    python launch/export.py run=DIR 'formats=[onnx,onnx-int8]' out=FOLDER

Keys:
    run      a finished run's folder, of either framework
    formats  safetensors, pt2, onnx, stablehlo, onnx-int8, onnx-int8-dynamic,
             or all; by default the first four
    out      the new folder; by default `export` in the run folder
    data.root, data.files  where the dataset is, if not where the run had it

Each file takes uint8 images of any batch size and returns logits; safetensors holds the
weights alone. A process without Duet loads each that computes, and compares its logits
with the trained model's on the whole test set before the folder appears, with
model.json and a model card, README.md. docs/export.md shows how files are loaded.
"""

import launch  # isort: skip  # noqa: F401  (launch/launch.py says why)

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from data.dataset import Dataset, acquire, load
from launch.asked import asked
from launch.cli import end_by_exception, plain_main
from launch.export_check import check_file, check_weights_file, right_of, scores
from launch.export_files import write_files
from launch.outputs import config_of_evaluation
from recipe.config import Config
from recipe.errors import ConfigError, DataError, RecordError
from recipe.fields import expanded
from recipe.formats import FORMATS
from recipe.labels import class_labels
from recipe.manifest import (
    MANIFEST,
    MANIFEST_VERSION,
    Manifest,
    ModelFile,
    Pixels,
    Tensor,
    model_file,
)
from recipe.weights import Weights
from record.card import large_falls, model_card
from record.disk import recording
from record.run import AVERAGE, Run, averaged, read_finished

ALL = f"{', '.join(FORMATS)}; or formats=all"
PACKAGES = ("torch", "jax", "flax", "numpy", "onnx", "onnxscript", "onnxruntime")


@dataclass
class ExportKeys:
    """What to export, and where."""

    run: str
    formats: list[str] = field(
        default_factory=lambda: ["safetensors", "pt2", "onnx", "stablehlo"]
    )
    out: str | None = None
    root: str | None = field(default=None, metadata={"key": "data.root"})
    files: str | None = field(default=None, metadata={"key": "data.files"})

    def __post_init__(self) -> None:
        self.run = expanded("run", self.run)
        if self.formats == ["all"]:
            self.formats = [*FORMATS]
        if self.out is not None:
            self.out = expanded("out", self.out)


def main(typed: list[str]) -> None:
    """Write every format, have each file checked, and show the folder.

    Raises:
      DuetError: with what is wrong, in one line; nothing is left of the folder then.
    """
    assert __doc__
    keys = asked(typed, ExportKeys, __doc__)
    check_formats(keys.formats)
    run = read_finished("run", Path(keys.run))
    out = Path(keys.out or run.path / "export").absolute()
    check_place(out)
    dataset = test_set(run, keys)
    with (
        recording(out),
        tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as work,
    ):
        export(run, keys.formats, dataset, Path(work))
        (Path(work) / "model").rename(out)
    print(f"export: {out}")


def check_formats(formats: list[str]) -> None:
    """Refuse formats that are unknown, lack a package or what they are made from."""
    if not formats or len({*formats}) < len(formats):
        raise ConfigError(
            f"formats=[{','.join(formats)}] needs each format once; of: {ALL}"
        )
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"formats: {name} is unknown; of: {ALL}")
        source = FORMATS[name].made_from
        if source is not None and source not in formats:
            raise ConfigError(
                f"formats: {name} is made from {source}, and compared with it; write "
                f"formats=[{source},{name}]"
            )
        lacking = [p for p in FORMATS[name].packages if find_spec(p) is None]
        if lacking:
            raise ConfigError(
                f"formats: {name} needs {', '.join(lacking)}, not installed here; pip "
                "install 'duet-twins[onnx]', or choose among: safetensors, pt2, "
                "stablehlo"
            )


def check_place(out: Path) -> None:
    """Refuse a folder that is there, or cannot be made."""
    if out.exists() or out.is_symlink():
        raise RecordError(
            f"out={out} is there already; nothing is overwritten: choose another out, "
            "or move it away"
        )
    if not out.parent.is_dir():
        raise RecordError(f"out={out}: there is no folder {out.parent}; make it first")


def test_set(run: Run, keys: ExportKeys) -> Dataset:
    """The dataset that the run was trained on, read from where it is now.

    Raises:
      DataError: if it is another one by now: accuracies would be claimed of data that
        nobody has.
    """
    data = run.config.data
    data = replace(data, root=keys.root or data.root, files=keys.files or data.files)
    acquire(data)
    dataset = load(data)
    if dataset.fingerprint != run.summary["data_fingerprint"]:
        raise DataError(
            f"{run.path} was trained on {data.name} with other content than "
            f"{data.files or data.root} has now: the fingerprints of summary.json and "
            "of the arrays differ; data.root= or data.files= says where they are"
        )
    return dataset


def evaluated_weights(run: Run) -> Weights:
    """The weights that the run evaluated, in fp32: the last ones, or their average."""
    averages = {
        n.removeprefix(AVERAGE): w for n, w in run.weights.items() if averaged(n)
    }
    weights = averages or run.weights
    return {name: np.ascontiguousarray(w, np.float32) for name, w in weights.items()}


def on_one_device(config: Config) -> Config:
    """The same model in fp32 on one CPU device, without any wrapper."""
    return config_of_evaluation(config, platform="cpu", precision="fp32")


def export(run: Run, formats: list[str], dataset: Dataset, work: Path) -> None:
    """Write the folder `work/model`, whole and checked.

    Args:
      work: a folder for what is needed meanwhile.
    """
    config, weights = on_one_device(run.config), evaluated_weights(run)
    framework = run.summary["framework"]
    conventions = write_files(config, weights, framework, formats, dataset, work)
    logits = np.load(work / "logits.npy")
    labels = dataset.test_labels if config.data.classes else None
    folder, files = work / "model", {}
    folder.mkdir()
    for name in formats:
        path = work / FORMATS[name].file
        if FORMATS[name].computes:
            measured = check_file(name, path, work, logits, labels)
        else:
            measured = check_weights_file(path, weights)
        files[name] = model_file(path, conventions[name], measured)
        shutil.move(path, folder)
        print(f"{name}: {path.name}, {files[name].bytes:,} bytes")
    test = {"examples": len(logits), **scores(right_of(logits, labels))}
    for line in large_falls(files):
        print(line)
    manifest = manifest_of(run, config, test, files)
    (folder / MANIFEST).write_bytes(manifest.to_json())
    (folder / "README.md").write_text(model_card(manifest))


def manifest_of(
    run: Run, config: Config, test: dict, files: dict[str, ModelFile]
) -> Manifest:
    height, width, channels = config.data.image_shape
    outputs = config.data.classes or 1
    return Manifest(
        schema_version=MANIFEST_VERSION,
        name=config.name,
        model=config.model.name,
        framework=run.summary["framework"],
        run=run.path.absolute().name,
        config_hash=run.summary["config_hash"],
        data=config.data.name,
        data_fingerprint=run.summary["data_fingerprint"],
        input=Tensor(
            name="images",
            shape=["batch", height, width, channels],
            layout="NHWC",
            dtype="uint8",
        ),
        output=Tensor(
            name="logits", shape=["batch", outputs], layout="NC", dtype="float32"
        ),
        pixels=Pixels(
            height=height,
            width=width,
            channels=channels,
            resize=config.data.resize,
            mean=config.data.mean,
            std=config.data.std,
        ),
        labels=class_labels(config.data),
        test=test,
        versions={name: _version(name) for name in PACKAGES},
        files=files,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    end_by_exception()  # so that what is half-written is removed
    plain_main(main)
