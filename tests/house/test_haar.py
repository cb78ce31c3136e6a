"""A Haar codec of joint bands, 9 channels at half side and 3: levels of the same sides by name."""

import json

import pytest
import torch

from benchmarks.tables.table import tabulate
from hierdiff.levels import down
from hierdiff.results import dataframe, wide
from tests.house.bands import Haar
from tests.house.runs import bench


def test_bands_come_back_exactly_and_the_low_one_is_the_block_mean():
    images = torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    bands = Haar(16).encode(images)
    assert [tuple(band.shape[1:]) for band in bands] == list(Haar(16).shapes())
    decoded = Haar(16).decode(bands)
    torch.testing.assert_close(decoded[16], images)
    torch.testing.assert_close(decoded["low"], down(images, 8))


@pytest.mark.slow
def test_bands_of_the_same_sides_are_trained_sampled_and_measured_by_their_names(tmp_path):
    record = bench(
        *(tmp_path, "tests.house.bands", "method=custom", "denoiser=custom", "sampler=dpmpp_2m"),
        *("method.name=tests.house.bands:HaarDiffusion", "denoiser.name=tests.house.bands:Bands"),
        "measure.resolutions=[]",
    )
    logged = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert {"loss/detail", "loss/low"} <= logged.keys()
    assert record.resolutions == (32, "low")
    assert {row.level for row in record.quality if row.view == "native"} == {32, "low"}
    low = next(row for row in record.quality if row.level == "low")
    assert low.resolution == 16
    assert [row.level for row in record.cost] == [32, "low"]
    curves = {(row.metric, row.level) for row in record.curves}
    assert curves == {("validation detail", 32), ("validation loss", "low")}
    groups = {(column.group, column.what) for column in tabulate([record]).cells}
    assert {("low, 16 px", "FD-RandomConv native"), ("16 px", "FD-RandomConv pooled")} <= groups
    assert "low" in {name for name, *_ in wide(dataframe(tmp_path / "run")).columns}
