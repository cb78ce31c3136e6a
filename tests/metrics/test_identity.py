"""An identity is parts, and text that has one form; what has no form stays what it is."""

from __future__ import annotations

import pytest

from hierdiff.metrics.identity import Identity, identity_of

WHOLE = Identity(
    "efficientnet_lite0@57934424", "bilinear-antialias-224", "uint8-round", "512", None,
    "rows=permuted(535)", "e37cb994c214", "frechet-factor",
)  # fmt: skip


@pytest.mark.parametrize(
    "identity",
    [
        WHOLE,
        Identity("torchmetrics", quantisation="uint8-round", n="8", reference="abc"),
        Identity("loss@12345678", n="256", rows="rows=permuted(535)", estimator="fixed noise"),
        Identity("pixels", "block-mean", "uint8-round", "8", "16", None, "own", "rms-of-255"),
    ],
)
def test_what_a_record_says_as_text_is_read_as_its_parts(identity: Identity):
    assert identity_of(str(identity)) == identity == identity_of(identity.plain())


@pytest.mark.parametrize("text", ["", "k=3", "a:b", "N=1 : x", "a : N=1 : b : c", "a:b:c:d:N=1:e"])
def test_text_of_no_known_form_is_itself(text: str):
    assert str(identity_of(text)) == text


def test_values_of_fewer_images_share_all_but_count_and_estimator():
    few = identity_of(str(WHOLE).replace("N=512", "N=100").replace("factor", "full"))
    assert few != WHOLE and few.apart_from_count() == WHOLE.apart_from_count()
    other = identity_of(str(WHOLE).replace("e37c", "0000"))
    assert other.apart_from_count() != WHOLE.apart_from_count()
