"""Shapes and types are checked while tests run."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import tests

Named = Float[Tensor, "b n"]


@tests.jaxtyped(typechecker=tests.check)
def joined(a: "Float[Tensor, 'b n']", b: "Named") -> "Float[Tensor, ' n']":
    return a[0] + b[0] if len(a) > 1 else a


@tests.jaxtyped(typechecker=tests.check)
def times(n: int, word: str) -> str:
    return n * word if n else n


def test_axes_of_one_name_have_one_size_also_behind_an_alias_and_in_what_is_returned():
    assert joined(torch.ones(2, 3), torch.ones(2, 3)).shape == (3,)
    assert joined(torch.ones(2, 4), torch.ones(2, 4)).shape == (4,)  # another call, other sizes
    for a, b in ((2, 3), (1, 2)), ((2, 3), (2, 4)), ((1, 3), (1, 3)):
        with pytest.raises(TypeError):
            joined(torch.ones(a), torch.ones(b))


def test_types_without_axes_are_checked_as_well():
    assert times(2, "a") == "aa"
    for n, word in (("2", "a"), (2, 3), (0, "a")):
        with pytest.raises(TypeError):
            times(n, word)


def test_a_function_inside_of_another_is_left_as_it_is():
    def inside(n: int) -> int:
        return n

    assert tests.jaxtyped(typechecker=tests.check)(inside) is inside


def test_the_package_is_checked(pytestconfig):
    if not pytestconfig.getoption("jaxtyping_packages"):
        pytest.skip("switched off by --jaxtyping-packages=")
    from hierdiff.images import to_float
    from hierdiff.resolution import text_of

    for wrong in (lambda: to_float(torch.zeros(2)), lambda: text_of(object())):
        with pytest.raises(TypeError):
            wrong()
