"""Small CIFAR archives in the published layouts, written as Python 2 wrote them."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from data.arrays import Arrays
from data.cifar import ARCHIVES

CLASSES = {"cifar10": 10, "cifar100": 100}


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as strings of Python 2, which the archives hold."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_string(self, text):
        content = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string


def as_python2(batch: dict) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(batch)
    # Where NumPy lay then, and the two flags of a dtype, which were numbers.
    content = stream.getvalue().replace(b"numpy._core.", b"numpy.core.")
    return content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")


def cifar_arrays(name: str, train: int = 10, test: int = 4) -> Arrays:
    random = np.random.default_rng(0)
    classes = CLASSES[name]
    return Arrays(
        random.integers(256, size=(train, 32, 32, 3), dtype=np.uint8),
        random.integers(classes, size=train, dtype=np.int32),
        random.integers(256, size=(test, 32, 32, 3), dtype=np.uint8),
        random.integers(classes, size=test, dtype=np.int32),
    )


def _member(name: str, images: np.ndarray, labels: np.ndarray) -> bytes:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    fine, coarse = labels.tolist(), (labels // 5).tolist()
    if name.endswith(".bin"):
        columns = [coarse, fine] if "100" in name else [fine]
        heads = np.array(columns, np.uint8).T
        return np.concatenate([heads, rows], axis=1).tobytes()
    kinds = {b"fine_labels": fine, b"coarse_labels": coarse}
    return as_python2(
        {**(kinds if "100" in name else {b"labels": fine}), b"data": rows}
    )


def write_cifar(folder: Path, file: str, **changes: bytes) -> Arrays:
    """An archive of ARCHIVES, with ten training and four test images; its arrays.

    Args:
      changes: base names of members and what they hold instead.
    """
    layout = ARCHIVES[file]
    arrays = cifar_arrays("cifar100" if "100" in file else "cifar10")
    members = {"readme.html": b"About CIFAR."}
    parts = len(layout.train)
    for part, member in reversed([*enumerate(layout.train)]):  # as in the published
        rows = slice(part * 10 // parts, (part + 1) * 10 // parts)
        members[member] = _member(member, arrays[0][rows], arrays[1][rows])
    members[layout.test[0]] = _member(layout.test[0], *arrays[2:])
    labels = "\n".join(
        map(str, range(CLASSES["cifar100" if "100" in file else "cifar10"]))
    )
    for meta in "batches.meta.txt", "fine_label_names.txt", "coarse_label_names.txt":
        coarse = "\n".join(map(str, range(20)))
        text = coarse if meta.startswith("coarse") else labels
        members[f"{Path(layout.test[0]).parent}/{meta}"] = text.encode()
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / file, "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            content = changes.get(Path(name).name, content)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return arrays


def publish(monkeypatch, path: Path) -> None:
    """Let a made archive have the published one's checksum."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    layout = ARCHIVES[path.name]._replace(sha256=found)
    monkeypatch.setitem(ARCHIVES, path.name, layout)
