"""DDP exchanges gradients alone; running statistics are sent where they are read."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from torch_impl.model import build_model
from torch_impl.parallel import World, parallelize


@pytest.fixture
def two_ranks():
    """The first of two, whose messages go nowhere."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield World(0, 2, 2, torch.device("cpu"))
    dist.destroy_process_group()


def test_no_running_statistics_are_sent_with_a_forward_pass(make_config, two_ranks):
    config = make_config("experiment=cifar10_resnet9", "model.width=0.0625")
    model = build_model(config).to_empty(device="cpu")
    wrapped = parallelize(model, two_ranks)
    assert isinstance(wrapped, DistributedDataParallel)
    assert len(wrapped.modules_buffers) > 0
    assert not wrapped.will_sync_module_buffers()
    assert DistributedDataParallel(model).will_sync_module_buffers()


@pytest.mark.parametrize("every_pass", [True, False])
def test_gradients_are_views_of_buckets_and_the_graph_static_if_each_pass_sends(
    make_config, two_ranks, every_pass
):
    model = build_model(make_config("experiment=digits_mlp")).to_empty(device="cpu")
    wrapped = parallelize(model, two_ranks, every_pass)
    assert isinstance(wrapped, DistributedDataParallel)
    assert wrapped.gradient_as_bucket_view
    assert wrapped.static_graph == every_pass
