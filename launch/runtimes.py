"""Load an exported file and compute its logits, without Duet.

    python -P launch/runtimes.py FORMAT MODEL IMAGES.npy LOGITS.npy [MEASURED.json]

A file of its own: it imports NumPy and the one runtime of the format. With a fifth
argument it also tries batches of other sizes and times the file.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 256  # images at once
SIZES = (1, 7, 64)  # batches that one file has to take
TIMED = (1, 256)  # batches whose latency is measured
SECONDS, LEAST, MOST = 0.5, 5, 200  # of timing a batch size, and its repetitions

Logits = Callable[[np.ndarray], np.ndarray]


def onnx(path: str) -> Logits:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(None, {"images": images})[0])


def pt2(path: str) -> Logits:
    import torch

    model = torch.export.load(path).module()

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(images)).numpy()

    return logits


def stablehlo(path: str) -> Logits:
    import jax
    from jax import export

    model = jax.jit(export.deserialize(bytearray(Path(path).read_bytes())).call)
    return lambda images: np.asarray(model(images))


# Format -> its loader, and the package whose version counts.
LOADERS: dict[str, tuple[Callable[[str], Logits], str]] = {
    "onnx": (onnx, "onnxruntime"),
    "onnx-int8": (onnx, "onnxruntime"),
    "onnx-int8-dynamic": (onnx, "onnxruntime"),
    "pt2": (pt2, "torch"),
    "stablehlo": (stablehlo, "jax"),
}


def logits(
    format: str, path: str, images_BHWC: np.ndarray, batch: int = BATCH
) -> np.ndarray:
    """The logits of uint8 images, shape (B, K), computed by a format's runtime."""
    loader, _ = LOADERS[format]
    return in_batches(loader(path), images_BHWC, batch)


def in_batches(model: Logits, images_BHWC: np.ndarray, batch: int) -> np.ndarray:
    starts = range(0, len(images_BHWC), batch)
    # Copied, since a memory-mapped file is read-only and tensors cannot be.
    parts = [model(np.array(images_BHWC[start : start + batch])) for start in starts]
    return np.concatenate(parts)


def measure(
    format: str, path: str, images_BHWC: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """The logits, and what is measured of the file in this new process.

    Returns:
      load_seconds: from the file to its first result for one image, without imports.
      batch_difference: largest difference of a logit at batches of `SIZES` from the
        one at `BATCH`.
      latency_seconds: for each batch size of `TIMED` median and 95th percentile.
      runtime: the package that computed, and its version.
    """
    loader, package = LOADERS[format]
    __import__(package)
    first = np.array(images_BHWC[:1])
    begin = time.perf_counter()
    model = loader(path)
    model(first)
    loaded = time.perf_counter() - begin
    whole = in_batches(model, images_BHWC, BATCH)
    differences = [0.0]
    for size in SIZES:
        some = images_BHWC[:size]
        found = in_batches(model, some, size)
        differences.append(float(np.abs(found - whole[: len(some)]).max()))
    latency = {
        str(size): timed(model, np.resize(images_BHWC[:size], (size, *first.shape[1:])))
        for size in TIMED
    }
    return whole, {
        "load_seconds": loaded,
        "batch_difference": max(differences),
        "latency_seconds": latency,
        "runtime": f"{package} {version(package)}",
    }


def timed(model: Logits, images_BHWC: np.ndarray) -> dict[str, float]:
    """Median and 95th percentile of the seconds of a call; the first is not counted."""
    model(images_BHWC)
    seconds: list[float] = []
    while len(seconds) < LEAST or (sum(seconds) < SECONDS and len(seconds) < MOST):
        begin = time.perf_counter()
        model(images_BHWC)
        seconds.append(time.perf_counter() - begin)
    return {"p50": float(np.median(seconds)), "p95": float(np.quantile(seconds, 0.95))}


def main(format: str, path: str, images: str, out: str, measured: str = "") -> None:
    given = np.load(images, mmap_mode="r")
    if not measured:
        np.save(out, logits(format, path, given))
        return
    found, facts = measure(format, path, given)
    np.save(out, found)
    Path(measured).write_text(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
