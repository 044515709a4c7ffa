"""Which devices a process takes, in environments that launchers and clusters make."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from recipe.errors import ConfigError
from runtime import devices
from runtime.devices import count_visible, jax_finds_gpus, listed, own_devices
from runtime.processes import Processes
from tests.conftest import ROOT, clean_environment

GPU = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
ELASTIC = {"TORCHELASTIC_RUN_ID": "none"}


@dataclass
class Case:
    """One process's environment, and what it takes.

    Args:
      source: where the environment is from.
      present: accelerators that its framework sees.
      rank, of: its local rank, and processes on its node.
      each: accelerators of a process.
      takes: indices; or words of the error.
      outer: the environment that torchrun was started with.
    """

    source: str
    environ: dict[str, str]
    present: int | None
    rank: int
    of: int
    takes: list[int] | tuple[str, ...]
    each: int = field(default=1, kw_only=True)
    outer: dict[str, str] | None = field(default_factory=dict, kw_only=True)


def step(on_node: str, visible: str, **more: str) -> dict[str, str]:
    """What SLURM gives a task: GPUs of the step on this node, and those it shows."""
    masks = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES")
    return {"SLURM_GPUS_ON_NODE": on_node, **dict.fromkeys(masks, visible), **more}


# As SLURM 22.05.8 has it: tests/launch/test_slurm.py asks a real one.
PER_TASK = {"SLURMD_TRES_BIND": "gpu:per_task:1"}
NONE = {"SLURM_GPUS_ON_NODE": "4", "SLURMD_TRES_BIND": "gpu:none"}
CASES = {
    "one process, one GPU": Case("", {}, 1, 0, 1, [0]),
    "one process of eight GPUs takes the first": Case("", {}, 8, 0, 1, [0]),
    "JAX, four devices in one process": Case("", {}, 4, 0, 1, [0, 1, 2, 3], each=4),
    "torchrun": Case("torchrun's manual", ELASTIC, 4, 3, 4, [3]),
    "torchrun on some of the GPUs": Case(
        "CUDA Programming Guide: a mask renumbers from 0",
        {**ELASTIC, "CUDA_VISIBLE_DEVICES": "2,5"},
        *(2, 1, 2, [1]),
    ),
    "torchrun on GPUs by UUID": Case(
        "CUDA Programming Guide: abbreviated UUIDs",
        {**ELASTIC, "CUDA_VISIBLE_DEVICES": "GPU-8f2a1c,GPU-77bb"},
        *(2, 1, 2, [1]),
    ),
    "torchrun of four behind an exported mask of one": Case(
        "facebookresearch/fairchem#597: Duplicate GPU detected",
        {**ELASTIC, "CUDA_VISIBLE_DEVICES": "0"},
        *(1, 0, 4, ("sees 1", "local rank 0 of 4", "CUDA_VISIBLE_DEVICES=0", "unset")),
        outer={"CUDA_VISIBLE_DEVICES": "0"},
    ),
    "torchrun of four behind a mask of one, whose own nobody can read": Case(
        "",
        {**ELASTIC, "CUDA_VISIBLE_DEVICES": "0"},
        *(1, 0, 4, ("sees 1", "CUDA_VISIBLE_DEVICES=0", "unset")),
        outer=None,
    ),
    "torchrun --virtual-local-rank": Case(
        "torch/distributed/run.py: one visible device for each",
        {**ELASTIC, "CUDA_VISIBLE_DEVICES": "3"},
        *(1, 3, 4, [0]),
    ),
    "torchrun --virtual-local-rank on some of the GPUs": Case(
        "local_elastic_agent.py, _set_local_rank_env: of torchrun's own mask",
        {**ELASTIC, "CUDA_VISIBLE_DEVICES": "5"},
        *(1, 1, 2, [0]),
        outer={"CUDA_VISIBLE_DEVICES": "2,5"},
    ),
    "torchrun and a wrapper script": Case(
        "export ROCR_VISIBLE_DEVICES=$LOCAL_RANK; exec python ...",
        {**ELASTIC, "ROCR_VISIBLE_DEVICES": "2"},
        *(1, 2, 4, [0]),
    ),
    "torchrun and a wrapper script that shows two of four": Case(
        "",
        {**ELASTIC, "CUDA_VISIBLE_DEVICES": "2,3"},
        *(2, 1, 4, ("sees 2", "CUDA_VISIBLE_DEVICES=2,3")),
    ),
    "torchrun of four where there is one": Case(
        "", ELASTIC, 1, 3, 4, ("local rank 3 of 4", "no variable masks any")
    ),
    "srun, all GPUs shown": Case(
        "awslabs/awsome-distributed-ai#71: srun --gpus-per-node=4",
        step("4", "0,1,2,3", SLURM_GPUS_PER_NODE="4"),
        *(4, 3, 4, [3]),
    ),
    "srun, all shown, without a mask": Case(
        "CSCS, Slurm: without --gpus-per-task CUDA_VISIBLE_DEVICES is unset",
        {},
        *(4, 3, 4, [3]),
    ),
    "srun --gpu-bind=none": Case(
        "PyG, Multi-Node Training using SLURM; SLURM 22.05 then sets no mask",
        *(NONE, 4, 2, 4, [2]),
    ),
    "srun --gpu-bind=none, in newer SLURM": Case(
        "jax#29669: CUDA_VISIBLE_DEVICES=0,1,2,3",
        step("4", "0,1,2,3", SLURM_GPU_BIND="none", SLURM_GPUS_PER_TASK="1"),
        *(4, 2, 4, [2]),
    ),
    "srun --gpu-bind=none on a shared node": Case(
        "SLURM 22.05 without ConstrainDevices",
        *(NONE, 8, 2, 4, ("sees 8", "gave this step 4", "--exclusive")),
    ),
    "srun --gpus-per-task=1, in a control group": Case(
        "NVIDIA/deepops#1102: each task has another GPU 0; jax#23452",
        step("4", "0", **PER_TASK),
        *(1, 3, 4, [0]),
    ),
    "srun --gpus-per-task=1, without control groups": Case(
        "CliMA/slurm-buildkite#54: it prints 0, 1, 2, 3; jax#28194",
        step("4", "3", **PER_TASK),
        *(1, 3, 4, [0]),
    ),
    "srun --gpus-per-task=1, as newer SLURM requests it": Case(
        "snakemake-executor-plugin-slurm#373: SLURM_TRES_PER_TASK",
        step("1", "0", SLURM_TRES_PER_TASK="cpu=8,gres/gpu=1"),
        *(1, 3, 4, [0]),
    ),
    "srun --gpu-bind=single:1": Case(
        "NVIDIA/deepops#1102: --gpu-bind=verbose,single:1",
        step("4", "1", SLURMD_TRES_BIND="gpu:verbose,single:1"),
        *(1, 1, 4, [0]),
    ),
    "srun --gpu-bind=map_gpu": Case(
        "E3SM-Project/E3SM#4834: Perlmutter",
        step("4", "2", SLURMD_TRES_BIND="gpu:map_gpu:0,1,2,3"),
        *(1, 2, 4, [0]),
    ),
    "srun --gpus-per-task=1 --gpu-bind=closest": Case(
        "OLCF, PyTorch on Frontier: the device is 0 in every task",
        step("8", "5", SLURM_GPUS_PER_TASK="1", SLURMD_TRES_BIND="gpu:closest"),
        *(1, 6, 8, [0]),
    ),
    "srun --gpus-per-task=2, a process of two devices": Case(
        "jax#16788", step("4", "2,3", SLURM_GPUS_PER_TASK="2"), 2, 1, 2, [0, 1], each=2
    ),
    "srun --gpus-per-task=2, processes of one device": Case(
        "jax#16788", step("4", "2,3", SLURM_GPUS_PER_TASK="2"), 2, 1, 2, [1]
    ),
    "srun --gpu-bind=closest, two GPUs for each half": Case(
        "Lightning-AI/pytorch-lightning#13605: Snellius",
        step("4", "2,3", SLURMD_TRES_BIND="gpu:closest"),
        *(2, 3, 4, ("sees 2", "SLURMD_TRES_BIND=gpu:closest", "without --gpu-bind")),
    ),
    "a wrapper script": Case(
        "gist BenWibking: ROCR_VISIBLE_DEVICES by $SLURM_LOCALID, out of order",
        {"SLURM_GPUS_ON_NODE": "8", "ROCR_VISIBLE_DEVICES": "6"},
        *(1, 4, 8, [0]),
    ),
    "LUMI's select_gpu": Case(
        "LUMI, GPU example batch scripts",
        {"SLURM_GPUS_ON_NODE": "8", "ROCR_VISIBLE_DEVICES": "7"},
        *(1, 7, 8, [0]),
    ),
    "a container with one GPU of each": Case(
        "NVIDIA Container Toolkit: docker run --gpus device=3",
        {"NVIDIA_VISIBLE_DEVICES": "3"},
        *(1, 3, 4, [0]),
    ),
    "a container with all of them": Case(
        "NVIDIA Container Toolkit", {"NVIDIA_VISIBLE_DEVICES": "all"}, 4, 3, 4, [3]
    ),
    "a container with all of one": Case(
        "NVIDIA Container Toolkit",
        {"NVIDIA_VISIBLE_DEVICES": "all"},
        *(1, 1, 2, ("sees 1", "NVIDIA_VISIBLE_DEVICES=all")),
    ),
    "Intel's tiles, one for each": Case(
        "oneAPI Level Zero: ZE_AFFINITY_MASK", {"ZE_AFFINITY_MASK": "0.1"}, 1, 1, 2, [0]
    ),
    "two tasks for each GPU": Case(
        "jax#29669: 8 tasks, 4 GPUs, --gpu-bind=none",
        step("4", "0,1,2,3", SLURM_GPU_BIND="none"),
        *(4, 6, 8, ("sees 4", "local rank 6 of 8", "cannot share")),
    ),
    "srun --ntasks-per-gpu=2": Case(
        "srun(1): implies --gpu-bind=single:2",
        step("2", "1", SLURM_NTASKS_PER_GPU="2", SLURMD_TRES_BIND="gpu:single:2"),
        *(1, 3, 4, ("SLURM_NTASKS_PER_GPU=2", "cannot share")),
    ),
    "tasks share one GPU of the step": Case(
        "NVIDIA/deepops#1102: --ntasks=4 --gres=gpu:1",
        step("1", "0"),
        *(1, 2, 4, ("SLURM_GPUS_ON_NODE=1", "fewer processes")),
    ),
    "MPS by a wrapper script": Case(
        "CSCS, Slurm, Multiple ranks per GPU",
        {"CUDA_MPS_PIPE_DIRECTORY": "/tmp/me/slurm-1.0/nvidia-mps-0"},
        *(1, 5, 32, ("CUDA_MPS_PIPE_DIRECTORY=", "cannot share")),
    ),
    "MPS by SLURM": Case(
        "gres.html, MPS Management",
        {"CUDA_VISIBLE_DEVICES": "0", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"},
        *(1, 1, 2, ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=50", "cannot share")),
    ),
    "a MIG instance for each task": Case(
        "NVIDIA MIG User Guide, MIG with Slurm",
        step("2", MIG, **PER_TASK),
        *(1, 1, 2, [0]),
    ),
    "two MIG instances shown to both": Case(
        "NVIDIA MIG User Guide: CUDA enumerates one",
        step("2", f"{MIG},MIG-b1e7"),
        *(1, 1, 2, ("sees 1", MIG, "--gpus-per-task=1")),
    ),
    "torchrun's variables by enroot's hook": Case(
        "NVIDIA/enroot, 50-slurm-pytorch.sh",
        step("4", "3", RANK="3", LOCAL_RANK="3", WORLD_SIZE="4", **PER_TASK),
        *(1, 3, 1, [0]),
    ),
    "no GPU": Case(
        "gres.html", {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0, 0, 1, ("=NoDevFiles",)
    ),
    "all GPUs hidden": Case(
        "CUDA Programming Guide",
        {"CUDA_VISIBLE_DEVICES": "-1"},
        *(0, 1, 2, (("platform=gpu, but JAX sees no accelerator", "=-1"))),
    ),
    "more devices than GPUs": Case(
        "", {}, 2, 0, 1, ("3 accelerators are requested but JAX sees 2",), each=3
    ),
    "nothing is known": Case("", {}, None, 3, 4, [6, 7], each=2),
}


def taken(case: Case) -> list[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "torchruns_environment", lambda: case.outer)
        return _taken(case)


def _taken(case: Case) -> list[int]:
    place = Processes("slurm", case.rank, 64, case.rank, local_count=case.of)
    return own_devices(case.environ, case.present, place, case.each, "JAX")


@pytest.mark.parametrize("name", CASES)
def test_a_process_takes_its_own_devices_or_says_what_it_found(name):
    case = CASES[name]
    if isinstance(case.takes, list):
        assert taken(case) == case.takes
        return
    with pytest.raises(ConfigError) as refused:
        taken(case)
    for word in case.takes:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    "shown", [["0"] * 4, ["0", "1", "2", "3"], [GPU, MIG, "4", "5"]]
)
def test_what_a_task_sees_alone_is_its_first_device_whatever_it_is_called(shown):
    tasks = [
        Case("", step("4", mask, **PER_TASK), 1, rank, 4, [0])
        for rank, mask in enumerate(shown)
    ]
    assert [taken(task) for task in tasks] == [[0]] * 4


def test_all_processes_of_a_node_refuse_together_so_that_rank_0_can_say_why():
    for case in CASES.values():
        if isinstance(case.takes, list) or case.of == 1:
            continue
        for rank in range(case.of):
            with pytest.raises(ConfigError):
                taken(replace(case, rank=rank))


# What a rank finds of torchrun's variables, started by it or by a script between.
FINDS = """
from runtime.devices import torchruns_environment
print((torchruns_environment() or {}).get("CUDA_VISIBLE_DEVICES"))
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("between", [[], ["sh", "-c", '"$@"; exit', "sh"]], ids=len)
def test_torchruns_own_mask_is_found_behind_a_wrapper(between):
    """A process stands in for torchrun: it starts another with what torchrun sets."""
    rank = [*between, sys.executable, "-c", FINDS]
    variables = {"TORCHELASTIC_RUN_ID": "none", "CUDA_VISIBLE_DEVICES": "5"}
    starts = "subprocess.run(sys.argv[1:], env={{**os.environ, **{}}})"
    code = f"import os, subprocess, sys; {starts}"
    done = subprocess.run(
        [sys.executable, "-c", code.format(variables), *rank],
        env={**clean_environment(), "CUDA_VISIBLE_DEVICES": "2,5"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "2,5\n", done.stderr


TWO = [[GPU], ["GPU-77bb0a1c-0000-0000-0000-000000000000"]]
SLICED = [[GPU, MIG, "MIG-b1e7"]]
VISIBLE = {
    None: (2, 1),
    "": (0, 0),
    "-1": (0, 0),
    "NoDevFiles": (0, 0),
    "0": (1, 1),
    "1,0": (2, 0),
    "0,7,1": (1, 1),
    "0,0": (0, 0),
    "0,-1,1": (1, 1),
    GPU: (1, 1),
    "GPU-8932,GPU-77BB": (2, 1),
    "GPU-dead,0": (0, 0),
    MIG: (1, 1),
    f"MIG-{GPU}/1/0": (1, 1),
    f"{MIG},MIG-b1e7": (1, 1),
}


@pytest.mark.parametrize("mask", VISIBLE)
def test_as_many_gpus_are_counted_as_cuda_shows(mask):
    environ = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
    both = count_visible(environ, TWO), count_visible(environ, SLICED)
    assert both == VISIBLE[mask]


def test_of_nvidias_gpus_cudas_mask_alone_counts_and_of_amds_rocms():
    masks = {"CUDA_VISIBLE_DEVICES": "0", "ROCR_VISIBLE_DEVICES": "0,1,2"}
    assert count_visible(masks, TWO) == 1
    assert count_visible(masks, None) == 3
    assert count_visible({**masks, "HIP_VISIBLE_DEVICES": "0,2"}, None) == 2
    assert count_visible({}, None) is None


def test_a_mask_ends_at_its_first_invalid_entry():
    assert listed(" 1 , 0.1,0:1,x,2") == ["1", "0.1", "0:1"]
    assert listed("all") == listed("none") == listed("void") == []


def test_jax_finds_gpus_by_its_plugins_unless_it_is_to_use_the_cpu(
    monkeypatch, tmp_path
):
    assert jax_finds_gpus({"JAX_PLATFORMS": "cpu"})
    monkeypatch.setattr(devices, "entry_points", lambda group: [])
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    assert not jax_finds_gpus({})
    (tmp_path / "xla_cuda13").mkdir()
    (tmp_path / "xla_cuda13" / "__init__.py").touch()

    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(devices, "find_spec", lambda name: Spec)
    assert jax_finds_gpus({})
