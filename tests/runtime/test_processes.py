"""A process learns its place from its launcher's variables, whole or not at all."""

import re

import pytest

from recipe.errors import ConfigError
from runtime.processes import OTHERS, Processes, first_host, from_environment
from runtime.processes import TORCHRUN as TORCHRUN_S_OWN

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node3",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
    "TORCHELASTIC_RESTART_COUNT": "0",
}
BATCH = {  # what a batch script sees: the job asked for four tasks, one runs here
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "4",
    "SLURM_NPROCS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
}
STEP = {
    **BATCH,
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def port(environ, **changes):
    return int(from_environment({**environ, **changes}).coordinator.split(":")[1])


def test_without_a_launcher_there_is_one_process():
    assert from_environment({}) == Processes("python", 0, 1, 0, "")


def test_torchrun_says_which_process_this_is():
    found = from_environment(TORCHRUN)
    assert (found.launcher, found.rank, found.count) == ("torchrun", 5, 8)
    assert (found.local_rank, found.coordinator.split(":")[0]) == (1, "node3")


@pytest.mark.parametrize("mask, local_rank", [("7", 3), ("", 0), ("0,1,2,3", 0)])
def test_a_virtual_local_rank_is_told_by_its_mask_of_one(mask, local_rank):
    """LOCAL_RANK=0 of rank 7, the last of the second node's four."""
    virtual = {"RANK": "7", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}
    virtual |= {"LOCAL_WORLD_SIZE": "4", "CUDA_VISIBLE_DEVICES": mask}
    assert from_environment({**TORCHRUN, **virtual}).local_rank == local_rank


def test_torchrun_on_one_node_meets_on_loopback():
    assert (
        from_environment({**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}).coordinator.split(":")[
            0
        ]
        == "127.0.0.1"
    )


@pytest.mark.parametrize(
    "name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
)
def test_torchrun_without_one_of_its_variables_is_refused_by_name(name):
    partial = {k: v for k, v in TORCHRUN.items() if k != name}
    with pytest.raises(ConfigError, match=rf"torchrun, but {name} is not set; start"):
        from_environment(partial)


@pytest.mark.parametrize("around", [{}, BATCH, STEP])
def test_torchrun_s_own_id_alone_is_refused(around):
    required = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
    said = f"by torchrun, but {', '.join(required)} is not set"
    with pytest.raises(ConfigError, match=said):
        from_environment({**around, "TORCHELASTIC_RUN_ID": "none"})


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("around", [{}, BATCH])
def test_one_variable_of_torchrun_alone_is_refused(name, around):
    with pytest.raises(ConfigError, match=f"^{name}={TORCHRUN[name]} in the env") as no:
        from_environment({**around, name: TORCHRUN[name]})
    for word in "LOCAL_RANK, MASTER_ADDR", "torchrun", "srun", "unset RANK and WORLD":
        assert word in str(no.value)


# What job scripts export for torchrun, and leave there for srun.
EXPORTED = {"WORLD_SIZE": "4", "MASTER_ADDR": "gpu07", "MASTER_PORT": "29500"}


@pytest.mark.parametrize("rank", [{}, {"RANK": "3"}])
def test_an_exported_world_size_that_srun_agrees_with_is_no_launcher(rank):
    assert from_environment({**STEP, **EXPORTED, **rank}) == from_environment(STEP)
    one = {**STEP, "SLURM_STEP_NUM_TASKS": "1", "WORLD_SIZE": "1"}
    assert from_environment(one) == Processes()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WORLD_SIZE", "8", "srun says SLURM_STEP_NUM_TASKS=4; `unset WORLD_SIZE`"),
        ("RANK", "0", "srun says SLURM_PROCID=3; `unset RANK`"),
    ],
)
def test_an_exported_variable_that_srun_contradicts_is_to_be_unset(name, value, said):
    with pytest.raises(ConfigError, match=f"^{name}={value} in the env.*{said}"):
        from_environment({**STEP, **EXPORTED, name: value})


def test_one_rank_exported_to_all_tasks_of_a_step_is_refused():
    whole = {n: v for n, v in TORCHRUN.items() if "ELASTIC" not in n}
    own = {**STEP, **whole, "WORLD_SIZE": "4", "RANK": "3"}
    assert from_environment(own).rank == 3
    with pytest.raises(ConfigError, match="^RANK=0 in the env.*`unset RANK`"):
        from_environment({**own, "RANK": "0"})


@pytest.mark.parametrize(("size", "rank"), OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("around", [{}, BATCH, STEP])
def test_ranks_of_another_launcher_never_train_alone(size, rank, around):
    said = f"{rank}=1 of {size}=2, .*torchrun --nproc-per-node=.*srun"
    with pytest.raises(ConfigError, match=said):
        from_environment({**around, size: "2", rank: "1"})
    assert from_environment({size: "1", rank: "0"}) == Processes()
    assert from_environment({**TORCHRUN, size: "2", rank: "1"}).launcher == "torchrun"


def test_pmi_s_variables_as_srun_sets_them_are_srun_s():
    assert from_environment({**STEP, "PMI_SIZE": "4", "PMI_RANK": "3"}).rank == 3


def test_a_kubeflow_pod_is_refused_naming_torchrun_unless_it_is_the_only_one():
    pod = {k: TORCHRUN[k] for k in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    with pytest.raises(ConfigError, match=r"but LOCAL_RANK is not set; .*PET_\*"):
        from_environment(pod)
    assert from_environment({**pod, "RANK": "0", "WORLD_SIZE": "1"}) == Processes()


def test_five_variables_set_by_hand_are_torchrun_s_wherever_they_are():
    by_hand = {k: v for k, v in TORCHRUN.items() if not k.startswith("TORCHELASTIC")}
    for around in {}, BATCH, STEP:
        found = from_environment({**around, **by_hand})
        assert (found.launcher, found.rank, found.count) == ("torchrun", 5, 8)


def test_a_slurm_step_says_which_process_this_is():
    found = from_environment(STEP)
    assert (found.launcher, found.rank, found.count) == ("slurm", 3, 4)
    assert (found.local_rank, found.coordinator.split(":")[0]) == (1, "gpu07")


def test_a_slurm_step_on_one_node_meets_on_loopback():
    assert (
        from_environment({**STEP, "SLURM_STEP_NUM_NODES": "1"}).coordinator.split(":")[
            0
        ]
        == "127.0.0.1"
    )


@pytest.mark.parametrize(
    "name",
    [
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_JOB_ID",
        "SLURM_STEP_ID",
        "SLURM_STEP_NUM_NODES",
        "SLURM_STEP_NODELIST",
    ],
)
def test_a_slurm_step_without_one_of_its_variables_is_refused_by_name(name):
    partial = {k: v for k, v in STEP.items() if k != name}
    with pytest.raises(ConfigError, match=rf"srun, but {name} is not set; start"):
        from_environment(partial)


@pytest.mark.parametrize(
    "environ, name",
    [
        *[(TORCHRUN, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")],
        *[(STEP, name) for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID")],
        *[(STEP, f"SLURM_STEP_{of}") for of in ("ID", "NUM_TASKS", "NUM_NODES")],
    ],
)
@pytest.mark.parametrize("value", ["2(x3)", "1.0", "one"])
def test_a_variable_that_is_no_whole_number_is_refused_by_name(environ, name, value):
    said = f"{name}={value} is not a whole number"
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}$"):
        from_environment({**environ, name: value})


def test_the_processes_of_a_node_are_counted_where_its_launcher_says():
    assert from_environment(TORCHRUN).local_count == 4
    tasks = {"SLURM_STEP_TASKS_PER_NODE": "3,1", "SLURM_NODEID": "1"}
    assert from_environment({**STEP, **tasks}).local_count == 1
    assert from_environment({**STEP, **tasks, "SLURM_NODEID": "0"}).local_count == 3
    assert from_environment(STEP).local_count == 1  # nobody says
    by_hand = {k: v for k, v in TORCHRUN.items() if k in TORCHRUN_S_OWN}
    two = {"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_NODEID": "1"}
    assert from_environment({**by_hand, **two}).local_count == 4


def test_several_nodes_are_told_from_one_by_where_they_meet():
    assert not from_environment(STEP).one_node
    assert from_environment({**STEP, "SLURM_STEP_NUM_NODES": "1"}).one_node
    assert not from_environment(TORCHRUN).one_node
    assert from_environment({**TORCHRUN, "LOCAL_WORLD_SIZE": "8"}).one_node


def test_a_batch_script_and_a_step_of_one_task_are_one_process():
    assert from_environment(BATCH) == Processes()
    assert from_environment({**STEP, "SLURM_STEP_NUM_TASKS": "1"}) == Processes()


def test_torchrun_inside_srun_wins():
    assert from_environment({**STEP, **TORCHRUN}) == from_environment(TORCHRUN)


def test_every_rank_works_out_the_same_coordinator():
    ranks = [{"RANK": str(r), "LOCAL_RANK": str(r % 4)} for r in range(8)]
    assert len({from_environment(TORCHRUN | r).coordinator for r in ranks}) == 1
    tasks = [{"SLURM_PROCID": str(r), "SLURM_LOCALID": str(r % 2)} for r in range(4)]
    assert len({from_environment(STEP | task).coordinator for task in tasks}) == 1


def test_ports_differ_between_steps_jobs_runs_and_restarts():
    steps = {port(STEP, SLURM_STEP_ID=str(n)) for n in range(16)}
    assert len(steps | {port(STEP, SLURM_JOB_ID=str(n)) for n in range(78, 94)}) == 32
    runs = {port(TORCHRUN, MASTER_PORT=str(n)) for n in range(29500, 29508)}
    runs |= {port(TORCHRUN, TORCHELASTIC_RESTART_COUNT=str(n)) for n in range(1, 8)}
    runs |= {port(TORCHRUN, TORCHELASTIC_RUN_ID=name) for name in ("a", "b")}
    assert len(runs) == 8 + 7 + 2


def test_ports_lie_below_those_that_linux_hands_out():
    ports = {port(STEP, SLURM_JOB_ID=str(n)) for n in range(1000)}
    ports |= {port(TORCHRUN, MASTER_PORT=str(n)) for n in range(29000, 30000)}
    assert min(ports) > 1023  # below, only root may listen
    assert max(ports) < 32768


@pytest.mark.parametrize(
    "nodelist, host",
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[007-009,12],login1", "gpu007"),
        ("gpu[12,14-16]", "gpu12"),
        ("gpu[1-2]-ib,other", "gpu1-ib"),
        ("rack[2-3,5]gpu[07,09],login1", "rack2gpu07"),
        ("r[1,3]-c[2-4]-n[05],login[1-2]", "r1-c2-n05"),
        ("a.cluster.org,b", "a.cluster.org"),
    ],
)
def test_the_first_host_of_a_node_list_is_rank_zeros(nodelist, host):
    assert first_host(nodelist) == host


@pytest.mark.parametrize("nodelist", ["", ",node1"])
def test_a_node_list_without_a_host_is_refused(nodelist):
    said = f"SLURM_STEP_NODELIST='{nodelist}' names no host"
    with pytest.raises(ConfigError, match=said):
        first_host(nodelist)
