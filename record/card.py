"""The model card beside exported files, in the form of the Hugging Face Hub."""

from typing import Any

import yaml

from recipe.formats import FORMATS
from recipe.manifest import Manifest, ModelFile

MOST_FALL = 0.01  # of an accuracy, by int8; of more the card speaks

LOAD = {
    "pt2": "torch.export.load('{file}').module()(torch.from_numpy(images))",
    "onnx": "onnxruntime.InferenceSession('{file}').run(None, {{'images': images}})",
    "stablehlo": "jax.export.deserialize(open('{file}', 'rb').read()).call(images)",
    "safetensors": "safetensors.numpy.load_file('{file}')",
}


def model_card(manifest: Manifest) -> str:
    """README.md of an export folder: YAML front matter, then the Hub's sections."""
    front = yaml.safe_dump(front_matter(manifest), sort_keys=False, allow_unicode=True)
    sections = {
        "Model Details": _details(manifest),
        "Uses": _uses(manifest),
        "Bias, Risks, and Limitations": _limits(manifest),
        "How to Get Started with the Model": _start(manifest),
        "Training Details": _training(manifest),
        "Evaluation": _evaluation(manifest),
    }
    text = "\n\n".join(f"## {title}\n\n{body}" for title, body in sections.items())
    return f"---\n{front}---\n\n# {manifest.name}\n\n{text}\n"


def front_matter(manifest: Manifest) -> dict[str, Any]:
    """Metadata that the Hub reads.

    Source: Hugging Face, "Model Cards" and the model-index specification.
    """
    classifies = "accuracy" in manifest.test
    libraries = {FORMATS[name].file.rpartition(".")[2] for name in manifest.files}
    front: dict[str, Any] = {
        "license": "unknown",
        "tags": ["duet", manifest.framework, manifest.model, *sorted(libraries)],
        "datasets": [manifest.data],
    }
    if not classifies:
        return front
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": manifest.data, "type": manifest.data, "split": "test"},
        "metrics": [{"type": "accuracy", "value": manifest.test["accuracy"]}],
    }
    return front | {
        "pipeline_tag": "image-classification",
        "metrics": ["accuracy"],
        "model-index": [{"name": manifest.name, "results": [result]}],
    }


def _details(manifest: Manifest) -> str:
    pixels, shape = manifest.pixels, list(manifest.input.shape)
    outputs = "logits" if manifest.labels else "the predicted value"
    return _lines(
        f"architecture: {manifest.model}, trained by {_framework(manifest)} as the "
        f"recipe `{manifest.name}` of Duet, and exported in fp32",
        f"input: `{manifest.input.name}`, {manifest.input.dtype}, shape "
        f"{shape} ({manifest.input.layout}); the batch may have any size",
        f"output: `{manifest.output.name}`, {manifest.output.dtype}, shape "
        f"{list(manifest.output.shape)}, {outputs}",
        f"pixels: {'grey' if pixels.channels == 1 else 'RGB'}, "
        f"{pixels.height}x{pixels.width}; the graph computes (pixel / 255 - mean) / "
        f"std itself, mean {pixels.mean}, std {pixels.std}",
        *([f"labels: {', '.join(manifest.labels)}"] if manifest.labels else []),
        "license: add yours in the front matter",
    )


def _uses(manifest: Manifest) -> str:
    return (
        f"Images like those of {manifest.data}, prepared as above. `model.json` has "
        "the same facts for programs, and the SHA-256 of each file."
    )


def _limits(manifest: Manifest) -> str:
    text = (
        f"Measured on the test set of {manifest.data} alone. Logits of other images "
        "say nothing about how sure the model is."
    )
    if any(FORMATS[name].int8 for name in manifest.files):
        text += (
            " Files in int8 round weights and activations; their logits are not the "
            "trained model's, and the table below says what that costs."
        )
    return text


def _start(manifest: Manifest) -> str:
    lines = [
        "# images: a NumPy array of uint8, shape "
        f"(any, {', '.join(map(str, manifest.input.shape[1:]))})"
    ]
    for name, entry in manifest.files.items():
        load = LOAD.get(name, LOAD["onnx"])
        lines.append(f"{load.format(file=entry.file)}  # {name}")
    return "```python\n" + "\n".join(lines) + "\n```"


def _training(manifest: Manifest) -> str:
    return _lines(
        f"run: `{manifest.run}`, recipe hash `{manifest.config_hash}`",
        f"data: {manifest.data}, fingerprint `{manifest.data_fingerprint}`",
    )


def _evaluation(manifest: Manifest) -> str:
    test = manifest.test
    said = f"The trained model in fp32 on {test['examples']:,} test images"
    if "accuracy" in test:
        said += (
            f": accuracy {test['accuracy']:.4f} ({test['correct']:,} of "
            f"{test['examples']:,}; 95 % interval {_interval(test)})"
        )
    falls = "".join(f"**{line}.**\n\n" for line in large_falls(manifest.files))
    return f"{said}.\n\n{table(manifest.files)}\n\n{falls}" + (
        "Each file that computes was loaded by a process without Duet. The difference "
        "is the largest of a logit from the trained model's. Load is from the file to "
        "its first result in a new process, imports excluded; latency is a call's, "
        "median and "
        "95th percentile, all on the CPU of the machine that exported."
    )


def large_falls(files: dict[str, ModelFile]) -> list[str]:
    """What is said of each file whose accuracy falls by more than `MOST_FALL`."""
    said = []
    for name, entry in files.items():
        points = 100 * entry.measured.get("accuracy_fall", 0.0)
        if points > 100 * MOST_FALL:
            low, high = (100 * e for e in entry.measured["accuracy_fall_interval"])
            said.append(
                f"{name}: accuracy is {points:.1f} points below the trained model's "
                f"(95 % interval {low:.1f} to {high:.1f}), more than "
                f"{100 * MOST_FALL:g}; prefer another format"
            )
    return said


def table(files: dict[str, ModelFile]) -> str:
    """One row for each format: what it costs and what it returns."""
    rows = [
        ("format", "bytes", "difference", "accuracy", "95 % interval", "load, s")
        + ("batch 1, ms", "batch 256, ms"),
        ("---", *["---:"] * 7),
        *(_row(name, entry) for name, entry in files.items()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(name: str, entry: ModelFile) -> tuple[str, ...]:
    found = entry.measured
    size = f"{entry.bytes:,}"
    if "logit_difference" not in found:
        return name, size, "0, the weights", *["–"] * 5
    scored = "accuracy" in found
    return (
        *(name, size, f"{found['logit_difference']:.1e}"),
        f"{found['accuracy']:.4f}" if scored else "–",
        _interval(found) if scored else "–",
        f"{found['load_seconds']:.2f}",
        *(_latency(found["latency_seconds"][batch]) for batch in ("1", "256")),
    )


def _latency(seconds: dict[str, float]) -> str:
    return f"{1e3 * seconds['p50']:.2f} ({1e3 * seconds['p95']:.2f})"


def _interval(found: dict[str, Any]) -> str:
    low, high = found["accuracy_interval"]
    return f"{low:.4f} to {high:.4f}"


def _framework(manifest: Manifest) -> str:
    return {"torch": "PyTorch", "jax": "JAX"}[manifest.framework]


def _lines(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)
