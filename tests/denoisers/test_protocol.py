"""A drop-in's prediction has the state's shape, or it is refused and never broadcast."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hierdiff.batch import Cond
from hierdiff.denoisers.protocol import (
    Denoiser,
    Joined,
    OneLevelDenoiser,
    Prediction,
    PredictionError,
    predict,
)
from hierdiff.methods import Request
from hierdiff.noise import from_generator, generator_of
from tests import tiny

X, LOG_SNR = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1)


class Gives(OneLevelDenoiser):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.zeros(()))  # by which a stage knows its device

    def denoise(self, x, log_snr, cond):
        return self.function(x)


class Whole(Denoiser):
    def __init__(self, out, learns_variance=False):
        super().__init__()
        self.out, self.learns_variance = out, learns_variance

    def forward(self, x_t, log_snr, cond, carry=None, added=None):
        return self.out


ODD = {
    "one channel": (lambda x: x[:, :1], r"gives \(2, 1, 8, 8\) in float32 for a state of \(2, 3"),
    "one pixel": (lambda x: x.mean((2, 3), keepdim=True), r"gives \(2, 3, 1, 1\)"),
    "one example": (lambda x: x[:1], r"gives \(1, 3, 8, 8\)"),
    "half the side": (lambda x: x[..., ::2, ::2], r"gives \(2, 3, 4, 4\)"),
    "whole numbers": (lambda x: x.long(), r"gives .* in int64"),
    "nothing": (lambda x: None, "gives a NoneType for a state of"),
    "a tuple": (lambda x: (x,), "gives a tuple for a state of"),
}


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_prediction_is_refused_alone_and_innermost(what):
    function, message = ODD[what]
    for network in (Gives(function), Joined(Gives(function), 3)):
        with pytest.raises(PredictionError, match=f"^Gives {message}"):
            predict(network, (X,), LOG_SNR, Cond())


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (X, "gives a Tensor: give Prediction"),
        (Prediction(X), "gives a Prediction: give Prediction"),  # type: ignore[arg-type]
        (Prediction((X, X)), "predicts 2 of 1 levels"),
        (Prediction((X,)), "says that it learns a variance and gives none"),
    ],
)
def test_a_network_that_writes_its_own_forward_is_checked_alike(out, message):
    with pytest.raises(PredictionError, match=message):
        predict(Whole(out, learns_variance=True), (X,), LOG_SNR, Cond())


def test_other_floating_point_types_are_predictions():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        out = predict(Gives(lambda x, dtype=dtype: x.to(dtype)), (X,), LOG_SNR, Cond())
        assert out.levels[0].dtype == dtype


def test_neither_the_loss_nor_the_sampler_broadcasts():
    stage = tiny.method("end_to_end", "unconditional").stages[0]
    stage.denoiser = Gives(lambda x: x[:, :1])
    batch = tiny.batch("unconditional")
    noise = from_generator(generator_of(0))
    with pytest.raises(PredictionError):
        stage(batch, stage.draw(batch, noise))
    with pytest.raises(PredictionError):
        stage.sample(Request(2, noise=noise))
