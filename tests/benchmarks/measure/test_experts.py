"""What experts do while samples are drawn: loads, painters, the picture."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.conditions import EvaluationConditions
from benchmarks.measure.experts import (
    Watched,
    check_experts,
    painters,
    watch_experts,
    write_experts_picture,
)
from benchmarks.measure.samples import Draw
from hierdiff.data import ImageData
from hierdiff.denoisers.protocol import Routes
from hierdiff.methods import methods
from tests import tiny
from tests.training.runs import built, images


def captioned(cache: Path) -> ImageData:
    sizes, animals = ("a", "a big"), ("cat", "dog", "owl")
    captions = tuple(f"{sizes[i % 2]} {animals[i % 3]}" for i in range(40))
    data = replace(images(40), captions=captions, labels=None, class_names=())
    return data.with_text({"name": "vocabulary", "width": 8, "length": 4}, cache).part("test")


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    data = captioned(tmp_path_factory.mktemp("states"))
    node = tiny.method_node(
        "end_to_end",
        (8,),
        denoiser={**tiny.denoiser_node("raphael"), "space_experts": 3},
        sampling={"steps": 4, "guidance": 2.0},
    )
    torch.manual_seed(0)
    method = tiny.randomised(methods.build(node, offered=data.facts)).eval()
    check_experts(method)
    return watch_experts(method, Draw(method, EvaluationConditions(data), 0, "32-true"), 5)


def test_each_call_is_seen_with_the_rows_that_have_words_alone(watched):
    assert len(watched.calls) == 4 and len(watched.images) == 3
    for call in watched.calls:
        assert len(call.time) == 5 and call.seen.any(1).all()
        assert torch.equal(call.words, watched.calls[0].words)
    assert len(watched.words) == int(watched.calls[0].seen[0].sum())


def test_shares_add_up_to_one_and_effective_numbers_stay_in_range(watched):
    rows = watched.rows()
    for name, experts in (("time", 2), ("space", 3)):
        own = {row["metric"]: row["value"] for row in rows if row["source"] == f"{name} experts"}
        assert 1 <= own["effective number"] <= experts
        assert 1 / experts <= own["largest share"] <= 1
    for _, load in watched.loads():
        torch.testing.assert_close(load.sum(1), torch.ones(len(load), dtype=torch.float64))


def test_loads_are_those_of_words_and_not_of_padding():
    words = torch.tensor([[[0, 0, 1, 1]], [[0, 1, 1, 1]]])
    seen = torch.tensor([[True, True, True, False], [True, False, False, False]])
    call = Routes(torch.tensor([[1], [0]]), words, seen)
    image = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    loads = dict(Watched({"time": 2, "words": 2}, [call], image, ()).loads())
    assert loads["time"].tolist() == [[0.5, 0.5]] and loads["words"].tolist() == [[0.75, 0.25]]


def test_the_painter_of_a_place_has_the_most_words_in_the_last_block():
    first = torch.tensor([[0.0, 1.0], [1.0, 0.0]])[None, None]
    last = torch.tensor([[[[0.2, 0.4]], [[0.3, 0.1]]]])
    (map_,) = painters(Routes(torch.zeros(1, 2), painted=(first, last)))
    assert map_.tolist() == [[[1, 0]]]
    assert painters(Routes(torch.zeros(1, 2))) == ()


def test_the_picture_is_drawn_with_and_without_words(watched, tmp_path: Path):
    write_experts_picture(tmp_path / "with.png", watched)
    bare = [Routes(call.time) for call in watched.calls]
    without = Watched({"time": 2}, bare, watched.images, ())
    write_experts_picture(tmp_path / "without.png", without)
    assert min(path.stat().st_size for path in tmp_path.iterdir()) > 1000
    assert {row["source"] for row in without.rows()} == {"time experts"}


def test_a_method_without_experts_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="no network of the method has any: take experiment"):
        check_experts(built())
