"""What a call leaves aside costs a sample nothing: experts not chosen, and heads for training."""

import pytest
import torch
from torch import nn

from benchmarks.cost.sampling import flops_of_sample
from hierdiff.methods import methods
from hierdiff.metrics.cost import active_parameters, parameters
from tests import tiny


@pytest.fixture
def stages():
    def stage(**options):
        denoiser = {**tiny.denoiser_node("raphael"), **options}
        node = {**tiny.method_node("end_to_end", (8,)), "denoiser": denoiser}
        with torch.device("meta"):
            method = methods.build(node, offered=tiny.facts("text"))
        return method.stages[0].train()

    return stage


def test_idle_experts_and_edge_heads_add_parameters_and_no_operations_to_a_sample(stages):
    few, many, edges = stages(), stages(time_experts=5), stages(edges=True)
    counts = [parameters(stage) for stage in (few, many, edges)]
    assert counts[0] < min(counts[1:])
    assert active_parameters(edges) == active_parameters(few)
    assert flops_of_sample(edges) == flops_of_sample(few)
    gates = 3 * 65 * len(many.denoiser.blocks)  # three more outputs of each time gate
    assert active_parameters(many) == active_parameters(few) + gates
    assert flops_of_sample(many) < 1.01 * flops_of_sample(few)


def test_all_parameters_of_other_networks_are_active():
    assert active_parameters(nn.Linear(2, 3)) == parameters(nn.Linear(2, 3)) == 9
