"""The formats that a trained model is exported to: files, writers and packages."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Format:
    """One kind of file.

    Args:
      file: its name in an export folder.
      writer: the process that writes it: "torch", "jax", "onnxruntime" or "numpy".
      packages: that writing and loading it need.
      made_from: the format whose file it is made from.
      computes: whether the file holds the computation, not the weights alone.
      int8: whether weights are rounded to 8 bits, so that logits differ.
      batch_alone: whether an image's logits do not depend on the others of its batch.
    """

    file: str
    writer: str
    packages: tuple[str, ...]
    made_from: str | None = None
    computes: bool = True
    int8: bool = False
    batch_alone: bool = True


ONNX = ("onnx", "onnxscript", "onnxruntime")  # the extra `onnx`

FORMATS = {
    "safetensors": Format(
        file="model.safetensors",
        writer="numpy",
        packages=("safetensors",),
        computes=False,
    ),
    "pt2": Format(file="model.pt2", writer="torch", packages=("torch",)),
    "onnx": Format(file="model.onnx", writer="torch", packages=("torch", *ONNX)),
    "stablehlo": Format(file="model.stablehlo", writer="jax", packages=("jax", "flax")),
    "onnx-int8": Format(
        file="model-int8.onnx",
        writer="onnxruntime",
        packages=ONNX,
        made_from="onnx",
        int8=True,
    ),
    "onnx-int8-dynamic": Format(
        file="model-int8-dynamic.onnx",
        writer="onnxruntime",
        packages=ONNX,
        made_from="onnx",
        int8=True,
        batch_alone=False,  # the activations' scale is that of the batch
    ),
}
