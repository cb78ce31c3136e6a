from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from hierdiff.batch import Batch, Cond


def full(n: int = 3) -> Cond:
    return Cond(
        labels=torch.arange(n),
        tokens=torch.randn(n, 4, 5, dtype=torch.float64),
        mask=torch.ones(n, 4, dtype=torch.bool),
        vectors={"pooled": torch.randn(n, 5, dtype=torch.float64)},
        scalars={"scale": torch.full((n,), 64.0), "crop": torch.arange(n).double()},
        low=torch.randn(n, 3, 2, 2, dtype=torch.float64),
        embedding=torch.randn(n, 6, dtype=torch.float64),
        context=(torch.randn(n, 2), torch.randn(n, 2)),
    )


def tensors(cond: Cond) -> list[torch.Tensor]:
    return pytree.tree_leaves(cond)


def test_dropping_takes_label_and_text_of_the_chosen_and_keeps_the_rest():
    cond = full()
    dropped = cond.dropped(torch.tensor([False, True, False]))
    assert dropped.labels.tolist() == [0, -1, 2]
    assert dropped.mask.any(dim=1).tolist() == [True, False, True]
    assert torch.equal(dropped.tokens[1], torch.zeros(4, 5, dtype=torch.float64))
    pooled = dropped.vectors["pooled"]
    assert torch.equal(pooled[1], torch.zeros(5, dtype=torch.float64))
    assert torch.equal(pooled[::2], cond.vectors["pooled"][::2])
    for name in ("tokens", "mask"):
        assert torch.equal(getattr(dropped, name)[::2], getattr(cond, name)[::2])
    assert dropped.scalars is cond.scalars
    assert dropped.low is cond.low


def rows_with_none(cond: Cond) -> dict[str, list[bool]]:
    """Which examples have "none", by condition."""
    assert cond.labels is not None and cond.mask is not None and cond.low is not None
    return {
        "label": (cond.labels == -1).tolist(),
        "caption": (~cond.mask.any(dim=1)).tolist(),
        "low": (~cond.low.flatten(1).any(dim=1)).tolist(),
        **{name: (~vector.any(dim=1)).tolist() for name, vector in cond.vectors.items()},
        **{name: value.isnan().tolist() for name, value in cond.scalars.items()},
    }


@pytest.mark.parametrize("name", full().names)
def test_each_condition_is_dropped_by_its_name_and_no_other_is(name):
    none = rows_with_none(full().dropped({name: torch.tensor([False, True, True])}))
    assert none.pop(name) == [False, True, True]
    assert len(none) == 5 and not any(any(rows) for rows in none.values())


def test_each_condition_has_a_mask_of_its_own():
    masks = {
        "label": torch.tensor([True, False, False]),
        "pooled": torch.tensor([False, True, True]),
    }
    none = rows_with_none(full().dropped(masks))
    assert none["label"] == [True, False, False] and none["pooled"] == [False, True, True]
    assert not any(none["caption"])


def test_a_condition_that_is_not_there_cannot_be_dropped():
    with pytest.raises(
        ValueError, match="no condition 'embedding' to drop: the batch has label, c"
    ):
        full().dropped({"embedding": torch.ones(3, dtype=torch.bool)})


def test_dropping_nobody_changes_nothing():
    cond = full()
    kept = cond.dropped(torch.zeros(3, dtype=torch.bool))
    assert all(torch.equal(a, b) for a, b in zip(tensors(kept), tensors(cond), strict=True))


def test_an_unconditional_batch_has_nothing_to_drop():
    assert Cond().dropped(torch.ones(3, dtype=torch.bool)) == Cond()


def test_map_reaches_every_tensor_and_only_them():
    cond = full()
    first = cond.map(lambda x: x[:1])
    assert all(torch.equal(a, b[:1]) for a, b in zip(tensors(first), tensors(cond), strict=True))
    assert len(tensors(first)) == 10
    assert set(first.scalars) == {"scale", "crop"}
    assert Cond().map(lambda x: x[:1]) == Cond()


def test_cat_puts_one_batch_behind_the_other():
    one, other = full(2), full(3)
    both = one.cat(other)
    assert all(len(x) == 5 for x in tensors(both))
    assert all(torch.equal(a[2:], b) for a, b in zip(tensors(both), tensors(other), strict=True))


def test_batches_of_different_parts_do_not_join():
    with pytest.raises(ValueError):
        full().cat(Cond(labels=torch.arange(3)))


def test_a_batch_is_a_pytree_with_its_condition():
    batch = Batch(images=torch.zeros(3, 1, 2, 2), cond=full())
    assert len(batch) == 3
    leaves, spec = pytree.tree_flatten(batch)
    assert len(leaves) == 1 + 10
    again = pytree.tree_unflatten(leaves, spec)
    assert torch.equal(again.cond.labels, batch.cond.labels)
    assert len(batch.map(lambda x: x[:2])) == 2
    assert batch.map(lambda x: x[:2]).cond.labels.tolist() == [0, 1]


def test_conditions_are_frozen():
    with pytest.raises(AttributeError):
        full().labels = None
