"""An exported ONNX file in int8, by onnxruntime.

    python -m launch.export_int8 FOLDER FORMAT...

FOLDER holds model.onnx and calibration.npy, training images; each format's file and
facts are written there. A separate process: onnxruntime is imported here.
"""

import json
import platform
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from recipe.formats import FORMATS

CALIBRATION = "calibration.npy"
CALIBRATION_BATCH = 64
# What runs in int8. Normalisation of pixels and reductions such as the mean over pixels
# or tokens stay in fp32: they are cheap, and rounding them costs accuracy.
STATIC = ("Add", "Conv", "Gemm", "MatMul", "MaxPool")
CPU_FLAGS = Path("/proc/cpuinfo")
VNNI = {"avx512_vnni", "avx_vnni"}


def choices(machine: str, flags: Collection[str]) -> dict[str, Any]:
    """Types of int8 that a processor multiplies without overflow, and fast.

    x86 without VNNI adds two products of uint8 and int8 in 16 bits, which saturate: the
    weights then get 7 bits. ARM multiplies int8 by int8.

    Args:
      machine: as `platform.machine` names it.
      flags: of the processor, as Linux lists them; without a list VNNI counts as absent,
        since 7 bits are right on every processor.

    Source: onnxruntime, "Quantize ONNX models", on `reduce_range`.

    >>> choices("x86_64", ["avx2"])
    {'activation_type': 'QUInt8', 'weight_type': 'QInt8', 'reduce_range': True}
    >>> choices("aarch64", [])
    {'activation_type': 'QInt8', 'weight_type': 'QInt8', 'reduce_range': False}
    """
    x86 = machine.lower() in ("x86_64", "amd64", "i386", "i686")
    return {
        "activation_type": "QUInt8" if x86 else "QInt8",
        "weight_type": "QInt8",
        "reduce_range": x86 and not VNNI & {*flags},
    }


def processor_flags() -> list[str]:
    """What the processor can, as Linux lists it; empty elsewhere."""
    try:
        lines = CPU_FLAGS.read_text().splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith("flags")), [])


class Calibration:
    """Training images in batches, as onnxruntime's calibrators read them."""

    def __init__(self, images: np.ndarray):
        parts = range(0, len(images), CALIBRATION_BATCH)
        self.batches: Iterator[np.ndarray] = (
            np.array(images[start : start + CALIBRATION_BATCH]) for start in parts
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}


def write_static(source: Path, target: Path, images: np.ndarray) -> dict[str, Any]:
    """Weights per output channel; scales of activations from training images."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    given = choices(platform.machine(), processor_flags())
    types = {k: QuantType[v] for k, v in given.items() if k.endswith("_type")}
    quantize_static(
        source,
        target,
        Calibration(images),  # pyright: ignore[reportArgumentType]  by its method
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(STATIC),
        per_channel=True,
        reduce_range=given["reduce_range"],
        **types,
    )
    return {"quantisation": "static", "per_channel": True, **given} | {
        "calibration_images": len(images)
    }


def write_dynamic(source: Path, target: Path, images: np.ndarray) -> dict[str, Any]:
    """Weights per output channel; scales of activations computed from each batch."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    reduce = choices(platform.machine(), processor_flags())["reduce_range"]
    quantize_dynamic(
        source,
        target,
        per_channel=True,
        reduce_range=reduce,
        # Convolutions too, whose integer kernel knows uint8 weights alone.
        weight_type=QuantType.QUInt8,
    )
    return {
        **{"quantisation": "dynamic", "per_channel": True, "reduce_range": reduce},
        **{"activation_type": "QUInt8", "weight_type": "QUInt8"},
    }


WRITERS = {"onnx-int8": write_static, "onnx-int8-dynamic": write_dynamic}


def main(folder: Path, *formats: str) -> None:
    import onnx
    from onnxruntime.quantization import quant_pre_process

    images = np.load(folder / CALIBRATION, mmap_mode="r")
    prepared = folder / "prepared.onnx"
    # Norms join the convolutions before them, and shapes are inferred.
    quant_pre_process(folder / FORMATS["onnx"].file, prepared, skip_symbolic_shape=True)
    for format in formats:
        path = folder / FORMATS[format].file
        facts = WRITERS[format](prepared, path, images)
        proto = onnx.load(path)
        del proto.graph.value_info[:]
        onnx.save_model(proto, path)
        opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
        facts |= {"opset": opset, "ir_version": proto.ir_version}
        (folder / f"{format}.json").write_text(json.dumps(facts))
    prepared.unlink()


if __name__ == "__main__":
    place, *rest = sys.argv[1:]
    try:
        main(Path(place), *rest)
    except Exception as error:  # of onnxruntime, of many classes
        text = " ".join(str(error).split())[:600]
        print(f"error: int8: {type(error).__name__}: {text}", file=sys.stderr)
        raise SystemExit(2) from None
