"""A figure of samples has a labelled row for each run, whose images are those of its sheet."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import figure
from hierdiff.files.atomic import write_png
from hierdiff.images import sheet
from hierdiff.sheets import COLUMNS, first_images
from tests.benchmarks.rows import record


def images(n: int, *sides: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, *sides), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("sides", [(32, 32), (128, 128), (16, 8), (2, 8, 8)])
def test_images_come_back_from_a_sheet_with_another_level_beside(sides):
    fine = images(COLUMNS + 3, *sides)
    coarse = images(COLUMNS + 3, *(side // 2 for side in sides), seed=1)
    found = first_images(sheet([fine, coarse]), sides, 5)
    for one, picture in zip(fine, found, strict=False):
        flat = one if one.ndim == 3 else torch.cat([*one.unbind(1)], dim=2)
        small = picture.resize((flat.shape[2], flat.shape[1]), 0)  # nearest
        assert np.array_equal(np.asarray(small), flat.permute(1, 2, 0).numpy())


def test_a_sheet_of_fewer_images_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="has no row of 8 images of 96 x 96: draw it again"):
        first_images(sheet([images(3, 32, 32)]), 32, 8)


def test_rows_are_labelled_and_real_images_come_last(tmp_path, capsys):
    for place, name in enumerate(("mdm", "end_to_end")):
        folder = tmp_path / name
        folder.mkdir()
        record(name).write(folder)
        for file, seed in (("samples.png", place), ("real.png", 9)):
            write_png(folder / file, sheet([images(8, 32, 32, seed=seed)]))
    runs, out = [str(tmp_path / name) for name in ("mdm", "end_to_end")], tmp_path / "figure.png"
    figure.main([*runs, "-n", "4", "-o", str(out)])
    assert str(out) in capsys.readouterr().out
    with figure.Image.open(out) as picture:
        assert picture.height == figure.GAP + 3 * (96 + figure.GAP)
        pixels = np.asarray(picture.convert("RGB"))
    for place, seed in enumerate((0, 1, 9)):
        row = pixels[figure.GAP + place * (96 + figure.GAP) :][:96]
        last = row[:, -figure.GAP - 96 : -figure.GAP]
        assert np.array_equal(last[::3, ::3], images(8, 32, 32, seed=seed)[3].permute(1, 2, 0))
        assert row[:, : -4 * (96 + figure.GAP)].min() < 128  # letters


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        figure.main([str(tmp_path)])
    assert end.value.code == 1 and "no finished run" in capsys.readouterr().err
