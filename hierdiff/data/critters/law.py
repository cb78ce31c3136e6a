"""The law that critters are drawn from: options and probabilities of DiceBear's style "Critters".

Parts are uniform and independent, but that the top never has the colour of the body; 20,000 seeds
agree with it.
"""

from __future__ import annotations

from hierdiff.data.law import Law, optional, uniform

COLOURS = 12  # of bodies; code c + 1 of the accent is code c of the body
NO_TOP, NO_PATTERN, NO_CHEEKS = 0.2, 0.55, 0.7

LAW = Law(
    name="critters",
    frequencies={
        "body": uniform(14),
        "body_colour": uniform(COLOURS),
        "eyes": uniform(19),
        "mouth": uniform(19),
        "top": optional(NO_TOP, 15),
        "accent_colour": optional(NO_TOP, COLOURS),
        "pattern": optional(NO_PATTERN, 10),
        "cheeks": optional(NO_CHEEKS, 3),
        "background": uniform(12),
    },
    impossible=tuple(
        (("body_colour", colour), ("accent_colour", colour + 1)) for colour in range(COLOURS)
    ),
    classes="body",
    captioned=("body_colour", "body", "eyes", "mouth", "top", "background"),
)
