"""The loss curves of a run: what is in which panel, and what is drawn."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hierdiff.files.log import losses
from hierdiff.training.log import Log
from hierdiff.training.pictures import curves, write_curves


def line(stage, images, **values):
    return {"stage": stage, "images": images} | {k.replace("_", "/"): v for k, v in values.items()}


LATENT = [
    line("autoencoder", 10, loss_autoencoder=2000.0, loss_pixel=0.5, kl=3.0),
    line("autoencoder", 20, loss_autoencoder=-600.0, loss_pixel=0.1, kl=2.0),
    line("latent", 30, loss=0.4, loss_16=0.4),
    line("latent", 40, loss=0.3, loss_16=0.3),
]
JOINT = [line("32x16", i, loss=3.0 / i, loss_32=1.0 / i, loss_16=2.0 / i) for i in (1, 2, 3)]


def test_a_loss_that_falls_below_zero_has_a_linear_panel_of_its_own():
    signed, positive = curves(LATENT).axes
    assert signed.get_yscale() == "linear" and positive.get_yscale() == "log"
    assert signed.get_legend_handles_labels()[1] == ["autoencoder"]
    assert positive.get_legend_handles_labels()[1] == ["pixel", "level 16"]
    drawn = np.concatenate([one.get_ydata() for one in signed.get_lines()])
    assert drawn.min() == -600


def test_losses_above_zero_share_one_panel_with_a_log_scale():
    (axes,) = curves(JOINT).axes
    assert axes.get_yscale() == "log"
    assert axes.get_legend_handles_labels()[1] == ["total", "level 32", "level 16"]


def test_a_curve_is_not_smoothed_over_the_end_of_a_stage():
    lines = [line("a", 1, loss=1.0), line("a", 2, loss=1.0), line("b", 3, loss=9.0)]
    assert [piece.tolist() for piece in losses(lines)["loss"]] == [[[1, 1], [2, 1]], [[3, 9]]]
    (axes,) = curves(lines).axes
    smooth = [one.get_ydata().tolist() for one in axes.get_lines()[1:4:2]]
    assert smooth == [pytest.approx([1, 1]), pytest.approx([9])]
    assert axes.get_legend_handles_labels()[1] == ["total"]


def test_a_run_without_a_line_has_an_empty_picture(tmp_path: Path):
    write_curves(tmp_path / "loss.png", Log(tmp_path / "log.jsonl").path)
    with Image.open(tmp_path / "loss.png") as picture:
        assert picture.width > 1
