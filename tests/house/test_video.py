"""Clips (c, f, h, w) are trained, sampled and measured by the harness as it is."""

import json
import subprocess
import sys

import pytest
from PIL import Image

from benchmarks.tables.table import tabulate
from hierdiff.results import dataframe
from tests.house.runs import bench, environment

CLIPS = ("data=critters", "data.name=squares", "data.resolution=[8,16,16]")
NETWORK = ("denoiser=custom", "denoiser.name=space_time")


@pytest.mark.slow
def test_a_codec_of_clips(tmp_path):
    record = bench(
        *(tmp_path, "tests.house.clips", "method=latent", "method.codec={name: folded}"),
        *("method.reference=null", "measure.resolutions=[[4,16,16]]", *CLIPS, *NETWORK),
    )
    assert record.resolutions == ([8, 16, 16],)
    assert {row.level for row in record.quality} == {(8, 16, 16), (4, 16, 16)}
    fd = next(row for row in record.quality if row.metric.startswith("FD"))
    assert (fd.n, fd.n_reference, fd.floor) == (8, 36, None)
    assert "N=8 : frames=8 : " in str(fd.identity)
    assert {"8x16x16 px", "4x16x16 px"} <= {column.group for column in tabulate([record]).cells}
    assert "8x16x16" in set(dataframe(tmp_path / "run")["resolution"].dropna())
    logged = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert "loss/4x16x16" in json.loads(logged[-1])  # of the codec's state
    command = [sys.executable, "-m", "hierdiff.sample", "n=3", f"out={tmp_path / 'made'}"]
    checkpoint = f"checkpoint={tmp_path / 'run' / 'weights.safetensors'}"
    subprocess.run([*command, checkpoint], env=environment(tmp_path), check=True)
    with Image.open(tmp_path / "made" / "8x16x16" / "0002.png") as strip:
        assert (strip.mode, strip.size) == ("RGB", (8 * 16, 16))


@pytest.mark.slow
def test_a_cascade_from_four_to_eight_frames_at_one_side(tmp_path):
    record = bench(
        *(tmp_path, "tests.house.clips", "method=cascaded", *CLIPS, *NETWORK),
        *("method.resolutions=[[8,16,16],[4,16,16]]", "method.stages=null"),
        "measure.resolutions=[]",
    )
    assert record.resolutions == ([8, 16, 16], [4, 16, 16])
    stages = [stage["name"] for stage in record.training["stages"]]
    assert stages == ["4x16x16", "4x16x16to8x16x16"]
    consistency = next(row for row in record.quality if row.metric == "consistency")
    assert consistency.level == (4, 16, 16)
    assert [(c.level, c.evaluations) for c in record.cost] == [
        ((8, 16, 16), 6),
        ((4, 16, 16), 3),
    ]


@pytest.mark.slow
def test_joint_levels_in_space_and_time(tmp_path):
    record = bench(
        *(tmp_path, "tests.house.clips", "method=mdm_video", *CLIPS),
        "measure.metrics=[fd,fd_motion,flicker,consistency]",
        "measure.resolutions=[[8,16,16],[4,8,8]]",
    )
    assert record.resolutions == ([8, 16, 16], [4, 8, 8])
    found = {(row.level, row.view, row.metric.split("-")[0]) for row in record.quality}
    for metric in ("FD", "flicker", "warping"):
        for level in ((8, 16, 16), (4, 8, 8)):
            assert (level, "native", metric) in found
    motion = next(row for row in record.quality if row.metric.startswith("FD-motion"))
    assert motion.floor is not None and "frames=8" in str(motion.identity)
    for name in ("samples", "real"):
        with Image.open(tmp_path / "run" / f"{name}.webp") as moving:
            assert moving.n_frames == 8
