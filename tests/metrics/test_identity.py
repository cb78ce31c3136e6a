"""An identity is parts, and one text for print."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hierdiff.metrics.identity import Identity

WHOLE = Identity(
    "efficientnet_lite0@57934424", "bilinear-antialias-224", "uint8-round", 512, None,
    "rows=permuted(535)", "e37cb994c214", 3, "frechet-factor",
)  # fmt: skip


@pytest.mark.parametrize("identity", [WHOLE, Identity("pixels", frames=16), Identity("")])
def test_its_plain_parts_are_those_that_play_a_role(identity: Identity):
    assert Identity(**identity.plain()) == identity  # type: ignore[arg-type]
    assert None not in identity.plain().values()


def test_as_text_it_says_all_its_parts():
    assert str(WHOLE) == (
        "efficientnet_lite0@57934424 : bilinear-antialias-224 : uint8-round : N=512 : "
        "rows=permuted(535) : ref=e37cb994c214 : protocol=3 : frechet-factor"
    )


def test_values_of_fewer_images_share_all_but_count_and_estimator():
    few = replace(WHOLE, n=100, estimator="frechet-full")
    assert few != WHOLE and few.apart_from_count() == WHOLE.apart_from_count()
    for change in ({"reference": "0000"}, {"protocol": 2}, {"resize": None}):
        assert replace(few, **change).apart_from_count() != WHOLE.apart_from_count()
