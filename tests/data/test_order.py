import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hierdiff.data.order import evaluation_rows, indices

sizes = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))


@given(sizes)
def test_each_epoch_visits_each_example_once(drawn):
    n, batch, seed = drawn
    seen = torch.cat([indices(step, n=n, batch=batch, seed=seed) for step in range(3 * n)])
    for epoch in seen[: len(seen) // n * n].reshape(-1, n):
        assert sorted(epoch.tolist()) == list(range(n))


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 4), st.integers(0, 30))
def test_ranks_partition_the_global_batch(n, share, ranks, step):
    options = {"n": n, "batch": share * ranks, "seed": 3}
    parts = [indices(step, rank=rank, ranks=ranks, **options) for rank in range(ranks)]
    assert torch.cat(parts).tolist() == indices(step, **options).tolist()


def test_a_step_is_the_same_whatever_was_asked_before():
    alone = indices(57, n=11, batch=4, seed=5)
    for step in range(80):
        indices(step, n=11, batch=4, seed=5)
    assert indices(57, n=11, batch=4, seed=5).tolist() == alone.tolist()


def test_epochs_and_seeds_differ_in_order():
    first, second = (indices(step, n=64, batch=64, seed=0).tolist() for step in (0, 1))
    assert first != second
    assert first != indices(0, n=64, batch=64, seed=1).tolist()


def test_the_order_of_seed_zero_never_changes():
    assert indices(0, n=8, batch=8, seed=0).tolist() == ORDER_OF_SEED_ZERO


ORDER_OF_SEED_ZERO = [4, 1, 6, 7, 0, 5, 3, 2]


def test_a_batch_that_ranks_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="not a multiple of 3"):
        indices(0, n=8, batch=4, seed=0, ranks=3)


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="from 0 examples"):
        indices(0, n=0, batch=4, seed=0)


@given(n=st.integers(1, 40), count=st.integers(1, 100))
def test_images_are_made_under_every_row_once_before_one_comes_again(n, count):
    rows = evaluation_rows(n, range(count)).tolist()
    for epoch in range(0, count, n):
        whole = rows[epoch : epoch + n]
        assert len(set(whole)) == len(whole) and set(whole) <= set(range(n))


@given(n=st.integers(1, 40), some=st.lists(st.integers(0, 99), min_size=1, max_size=8))
def test_the_row_of_an_image_depends_on_its_number_alone(n, some):
    whole = evaluation_rows(n, range(100))
    assert evaluation_rows(n, some).tolist() == [int(whole[place]) for place in some]


def test_evaluation_rows_are_a_sample_and_every_round_another_one():
    """Of rows sorted by class the first ones are of one class."""
    rows = evaluation_rows(900, range(1800))
    assert len(set((rows[:36] // 100).tolist())) > 6  # of 9 classes
    assert not torch.equal(rows[:900], rows[900:])
    with pytest.raises(ValueError, match="there are none"):
        evaluation_rows(0, range(1))


def test_evaluation_rows_are_the_ones_that_records_were_measured_with():
    """Other rows are another protocol: raise PROTOCOL of hierdiff/metrics/identity.py with them."""
    assert evaluation_rows(10, range(12)).tolist() == [7, 4, 9, 1, 5, 0, 6, 8, 2, 3, 8, 0]
