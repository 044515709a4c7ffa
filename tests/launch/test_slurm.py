"""Runs that a real SLURM starts, on two nodes."""

import os
import subprocess
import sys

from tests.conftest import ROOT
from tests.launch.slurm_cluster import NODES, SlurmCluster


def test_a_step_over_two_nodes_has_a_task_on_each(slurm):
    said = slurm.run("srun", "-N2", "-n2", "hostname").stdout
    assert sorted(said.split()) == list(NODES)


def test_a_cluster_that_ends_leaves_no_process_and_no_folder(slurm):
    with SlurmCluster(slurm.env) as other:
        other.run("sbatch", "-o", "/dev/null", "--wrap", "sleep 4242")
        while "sleep 4242" not in "\n".join(other.processes()):
            pass
    assert not other.folder.exists()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True)
    assert "sleep 4242" not in listed.stdout
    assert str(other.folder) not in listed.stdout
