"""A film strip has every level that a sample goes through."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.pictures import FRAMES, SHOWN, film
from benchmarks.measure.samples import Draw
from hierdiff.methods import Generator
from tests import tiny
from tests.training.runs import images


@pytest.mark.parametrize("name", ["end_to_end", "mdm", "cascaded"])
def test_a_film_strip_shows_every_level_from_noise_to_image(name):
    stage = tiny.method(name, "unconditional").stages[-1]
    assert isinstance(stage, Generator)
    sides = sorted({side for part in stage.chain for side in part.resolutions}, reverse=True)
    assert len(sides) == (1 if name == "end_to_end" else 2)
    draw = Draw(stage, EvaluationConditions(images(4)), 0, "32-true")
    strip = np.asarray(film(stage, draw))
    assert strip.shape[0] / strip.shape[1] == pytest.approx(SHOWN * len(sides) / FRAMES, rel=0.1)
