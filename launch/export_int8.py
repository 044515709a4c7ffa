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
STATIC = ("Add", "Conv", "Gemm", "MatMul", "MaxPool", "Relu", "Reshape", "Transpose")
CPU_FLAGS = Path("/proc/cpuinfo")
INT32 = 6  # onnx.TensorProto's
VNNI = {"avx512_vnni", "avx_vnni"}


def choices(machine: str, flags: Collection[str]) -> dict[str, Any]:
    """Types of int8 that a processor multiplies without overflow, and fast.

    x86 without VNNI adds two products of uint8 and int8 in 16 bits, which saturate: the
    weights then get 7 bits. ARM multiplies int8 by int8.

    Args:
      machine: as `platform.machine` names it.
      flags: of the processor, as Linux lists them; without a list VNNI counts as
        absent, since 7 bits are right on every processor.

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
    quantize_static(
        source,
        target,
        Calibration(images),  # pyright: ignore[reportArgumentType]  by its method
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(STATIC),
        per_channel=True,
        reduce_range=given["reduce_range"],
        # Of matrix products, so that logits are not rounded to 8 bits.
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
        activation_type=QuantType[given["activation_type"]],
        weight_type=QuantType[given["weight_type"]],
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
        # The integer kernel of convolutions knows uint8 weights alone.
        weight_type=QuantType.QUInt8,
    )
    return {
        **{"quantisation": "dynamic", "per_channel": True, "reduce_range": reduce},
        **{"activation_type": "QUInt8", "weight_type": "QUInt8"},
    }


def shorten(model: Any) -> None:
    """Give what is inside a model short names, and drop what loading it needs not.

    A quantised model has three times the nodes, each with several names of 40 letters:
    of a small model's file a quarter.
    """
    graph = model.graph
    kept = {tensor.name for tensor in (*graph.input, *graph.output)} | {""}
    short: dict[str, str] = {}

    def renamed(name: str) -> str:
        return name if name in kept else short.setdefault(name, f"t{len(short)}")

    biases = {array.name for array in graph.initializer if array.data_type == INT32}
    for node in graph.node:
        inputs, outputs = list(node.input), list(node.output)
        if node.op_type == "DequantizeLinear" and inputs[0] in biases:
            del inputs[2:]  # a bias's zero point is 0, as without one
        node.input[:], node.output[:] = map(renamed, inputs), map(renamed, outputs)
        node.ClearField("name")
        node.ClearField("doc_string")
    for array in list(graph.initializer):
        if array.name in short:
            array.name = short[array.name]
        else:
            graph.initializer.remove(array)
    domains = {node.domain for node in graph.node} | {""}
    for opset in [o for o in model.opset_import if o.domain not in domains]:
        model.opset_import.remove(opset)
    del graph.value_info[:], model.metadata_props[:]


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
        shorten(proto)
        onnx.save_model(proto, path)
        opset = next(
            o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")
        )
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
