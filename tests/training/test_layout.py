from __future__ import annotations

import torch
from torch import nn

from hierdiff.training.layout import channels_last, with_channels_last


def test_weights_of_images_and_of_clips_have_channels_last_and_the_same_values():
    module = nn.ModuleList([nn.Conv2d(2, 3, 3), nn.Conv3d(2, 3, 3), nn.Linear(2, 3)])
    before = [parameter.clone() for parameter in module.parameters()]
    with_channels_last(module)
    assert module[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert module[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(map(torch.equal, before, module.parameters()))


def test_what_is_no_image_stays():
    numbers = torch.rand(2, 3, 4)
    assert channels_last(numbers) is numbers
    assert channels_last(torch.rand(1, 2, 3, 4, 5)).shape == (1, 2, 3, 4, 5)
