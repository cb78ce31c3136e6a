"""One table of names, read both ways."""

from hierdiff.interop.names import Names

NAMES = Names(("conv_in", "first"), ("down.{i}.attn.{j}", "down.{i}.{j}.attention"))


def test_a_name_goes_there_and_back():
    assert NAMES.ours("down.3.attn.1.q.weight") == "down.3.1.attention.q.weight"
    assert NAMES.theirs("down.3.1.attention.q.weight") == "down.3.attn.1.q.weight"


def test_a_pair_fits_whole_parts_of_a_name_wherever_they_stand():
    assert NAMES.ours("inner.conv_in.bias") == "inner.first.bias"
    assert NAMES.ours("conv_in2.bias") == "conv_in2.bias"


def test_the_last_pair_is_the_first_on_the_way_back():
    assert Names(("query", "q"), ("to_q", "q")).theirs("attn.q") == "attn.to_q"
