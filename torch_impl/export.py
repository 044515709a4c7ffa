"""A trained model as a file that needs nothing of Duet: uint8 images in, logits out.

The model is rebuilt from its canonical weights in evaluation mode, so no wrapper (DDP,
FSDP, torch.compile) is exported, whatever it was trained under.

Shapes: B batch, H height, W width, C channels, K classes.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from recipe.config import Config
from recipe.pixels import pixel_affine
from recipe.weights import Weights
from torch_impl.model import build_model
from torch_impl.parallel import World
from torch_impl.precision import parameter_dtype
from torch_impl.step import normalise
from torch_impl.weights import load_weights

ALONE = World(0, 1, 1, torch.device("cpu"))


class _ImageModel(nn.Module):
    def __init__(self, config: Config, model: nn.Module):
        super().__init__()
        self.model, self.dtype = model, parameter_dtype(config)
        mean, scale = (torch.tensor(array) for array in pixel_affine(config))
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, images_BHWC: UInt8[Tensor, "B H W C"]) -> Float[Tensor, "B K"]:
        normal_BCHW = normalise(images_BHWC, self.mean, self.scale).permute(0, 3, 1, 2)
        return self.model(normal_BCHW).to(self.dtype)


def image_model(
    config: Config, weights: Weights
) -> Callable[[UInt8[Tensor, "B H W C"]], Float[Tensor, "B K"]]:
    """The model in evaluation mode, normalisation of pixels included.

    Raises:
      ConfigError: if the weights are not the model's.
    """
    model = build_model(config)
    load_weights(model, weights, ALONE)
    for parameter in model.parameters():
        # Kernels are OHWI in memory, which torch.export.save takes for a part of one.
        parameter.data = parameter.data.contiguous()
    return _ImageModel(config, model).eval().requires_grad_(False)


def write_model(
    config: Config, weights: Weights, format: str, path: Path
) -> dict[str, Any]:
    """Write the model for batches of any size.

    Args:
      format: "pt2" or "onnx".

    Returns:
      How the file is called, for the manifest.
    """
    model = image_model(config, weights)
    assert isinstance(model, nn.Module)
    # Of one or of none torch would take the size for fixed.
    example = torch.zeros(2, *config.data.image_shape, dtype=torch.uint8)
    # A named dimension: with AUTO a size that the model fixes would be fixed silently
    # (pytorch#148886), with a name it is an error.
    with torch.no_grad():
        program = torch.export.export(
            model, (example,), dynamic_shapes=({0: Dim("batch")},)
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return {"pt2": _write_pt2, "onnx": _write_onnx}[format](program, path)


def _write_pt2(program: ExportedProgram, path: Path) -> dict[str, Any]:
    torch.export.save(program, path)
    return {"loader": "torch.export.load", "torch": torch.__version__}


def _write_onnx(program: ExportedProgram, path: Path) -> dict[str, Any]:
    """By the exporter that is based on torch.export, checked by ONNX's own rules.

    Raises:
      ValueError: if the batch has become a fixed size.
    """
    import onnx  # the extra `onnx`

    exported = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    assert exported is not None
    proto = exported.model_proto
    for tensor in (*proto.graph.input, *proto.graph.output):
        batch = tensor.type.tensor_type.shape.dim[0]
        if not batch.dim_param:
            raise ValueError(f"{tensor.name} has a batch of {batch.dim_value} alone")
        batch.dim_param = "batch"
    # Shapes are inferred by whoever loads it, and the rest is the exporter's own.
    del proto.graph.value_info[:]
    tensors = *proto.graph.input, *proto.graph.output
    for part in (proto.graph, *proto.graph.node, *tensors):
        del part.metadata_props[:]
    # A bias of another shape than its convolution's channels (pytorch#166797) is found
    # here, or by the comparison of logits that every file has to pass.
    onnx.checker.check_model(proto, full_check=True)
    onnx.save_model(proto, path)
    opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
    return {"opset": opset, "ir_version": proto.ir_version}
