"""Broken input meets the project's own errors and no others.

A few hundred cases here; DUET_FUZZ=2000 takes so many of each kind (`make faults`).
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from data.cifar import ARCHIVES, read_cifar
from data.idx import as_idx, read_idx
from launch.overrides import checked, meaning, refusal
from recipe.config import Config, from_yaml, known_keys, to_config, to_yaml
from recipe.errors import ConfigError, DataError, RecordError
from record.checkpoint import Checkpoint, CheckpointWriter, read_checkpoint
from record.rows import rows_until
from record.run import read_rows
from tests.conftest import ROOT

CASES = int(os.environ.get("DUET_FUZZ", "60"))
fuzz = settings(
    max_examples=CASES,
    deadline=None,
    database=None,
    derandomize=True,  # the same cases every time; more of them are more cases
    suppress_health_check=list(HealthCheck),
)

NASTY = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [10**400, -1, 0, "", "${x}", "???", "~/x", "\0", "nan", "../..", []]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def changed(draw, content: bytes) -> bytes:
    """Cut, flipped, repeated, or with something put in between."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        piece = draw(st.binary(max_size=8))
        content = draw(
            st.sampled_from(
                [
                    content[:at],
                    content[at:],
                    content[:at] + piece + content[at:],
                    content[:at] + piece + content[at + len(piece) :],
                    content + content[at:],
                ]
            )
        )
    return content


def replaced(value: object, draw, depth: int = 0) -> object:
    """JSON with one of its parts replaced by something nasty, or gone."""
    if isinstance(value, dict) and value and (depth == 0 or draw(st.booleans())):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 9)) == 0:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: replaced(value[key], draw, depth + 1)}
    return draw(NASTY)


@pytest.fixture(scope="module")
def hydra():
    ConfigStore.instance().store("schema", node=Config)
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@given(
    st.sampled_from(known_keys(Config)), NASTY, st.sampled_from(["", "+", "++", "~"])
)
@settings(fuzz, max_examples=max(10, CASES // 4))  # Hydra takes its time
def test_overrides(hydra, key, value, prefix):
    arguments = [f"{prefix}{key}={value}"]
    try:
        arguments = checked(arguments)
        to_config(compose("config", arguments))
    except ConfigError:
        pass
    except HydraException as error:
        assert str(refusal(error, Config))
    except (AssertionError, AttributeError, OverflowError) as error:  # as launch/cli.py
        assert meaning(error, arguments) is not None


@pytest.fixture(scope="module")
def good(hydra):
    return to_yaml(to_config(compose("config"))).encode()


@given(st.data())
@fuzz
def test_a_folders_config(good, data):
    text = data.draw(changed(good)).decode(errors="replace")
    with contextlib.suppress(ConfigError):
        from_yaml(text)


@given(st.data())
@fuzz
def test_idx(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed-idx"
    images = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    path.write_bytes(data.draw(changed(as_idx(images))))
    with contextlib.suppress(DataError):
        read_idx(path, 3)


@given(st.data(), st.sampled_from(sorted(ARCHIVES)))
@fuzz
def test_cifar(tmp_path_factory, data, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data.draw(changed(b"\x1f\x8b\x08\0\0\0\0\0" + bytes(64))))
    with pytest.raises(DataError):  # none has the published SHA-256
        read_cifar(path)


def write_checkpoint(run: Path) -> Path:
    run.mkdir()
    weights = {"dense.0.kernel": np.ones((2, 2), np.float32)}
    test = {"loss": 1.0, "accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    checkpoint = Checkpoint(
        step=5,
        epoch=1,
        framework="jax",
        world_size=2,
        config_hash="c0" * 32,
        recipe={"train": {"seed": 0}},
        data_fingerprint="5e" * 32,
        arrays={"weights": weights, "momentum": weights},
        state={"loss_scale": 1.0},
        test={**test, "confusion": [[1, 0], [0, 1]], "step": 5},
    )
    with CheckpointWriter(run, 2) as writer:
        return writer.save(checkpoint)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = write_checkpoint(tmp_path_factory.mktemp("fuzz") / "run")
    return path, (path / "manifest.json").read_bytes()


def vouch_for(path: Path, manifest: bytes) -> None:
    """As the one who wrote it would: what is read is then all there is to check."""
    (path / "manifest.json").write_bytes(manifest)
    (path / "COMMITTED").write_text(hashlib.sha256(manifest).hexdigest())


@given(st.data())
@fuzz
def test_manifests_that_their_marker_vouches_for(checkpoint, data):
    path, manifest = checkpoint
    odd = replaced(json.loads(manifest), data.draw)
    vouch_for(path, json.dumps(odd).encode())
    with contextlib.suppress(RecordError):
        read_checkpoint(path)


@given(st.data())
@fuzz
def test_manifests_of_any_bytes(checkpoint, data):
    path, manifest = checkpoint
    vouch_for(path, data.draw(changed(manifest)))
    with contextlib.suppress(RecordError):
        read_checkpoint(path)


@given(st.data())
@fuzz
def test_weights_that_their_manifest_vouches_for(checkpoint, data):
    path, manifest = checkpoint
    original = (path / "momentum.safetensors").read_bytes()
    content = data.draw(changed(original))
    (path / "weights.safetensors").write_bytes(content)
    told = json.loads(manifest)
    told["files"]["weights.safetensors"] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
    }
    vouch_for(path, json.dumps(told).encode())
    with contextlib.suppress(RecordError):
        read_checkpoint(path)


STEP = {
    **{"kind": "step", "step": 1, "epoch": 1, "loss": 1.0, "learning_rate": 0.1},
    **{"grad_norm": 1.0, "loss_scale": 1.0, "skipped": False, "examples": 8},
}


@given(st.data())
@fuzz
@example(None)
def test_metrics(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    content = b"".join(json.dumps({**STEP, "step": n}).encode() + b"\n" for n in (1, 2))
    if data is not None:
        odd = json.dumps(replaced(STEP, data.draw)).encode() + b"\n"
        content = data.draw(st.sampled_from([content + odd, odd]))
        if data.draw(st.booleans()):
            content = data.draw(changed(content))
    (folder / "metrics.jsonl").write_bytes(content)
    for read in (
        lambda: read_rows(folder),
        lambda: rows_until(folder / "metrics.jsonl", 2),
    ):
        try:
            read()
        except RecordError:
            assert data is not None
