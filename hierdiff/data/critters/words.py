"""The caption of a critter, from the values of its attributes."""

from __future__ import annotations

from collections.abc import Mapping

# a value that is not listed is its own phrase
BODY = {"tilt": "tilted", "lean": "leaning", "peak": "peaked", "wedgeInv": "funnel"}
BODY |= {"steps": "stepped"}
EYES = {
    "round": "round eyes",
    "dots": "dotted eyes",
    "bigPupils": "big eyes",
    "sideeye": "sideways eyes",
    "inward": "crossed eyes",
    "mono": "one eye",
    "uneven": "uneven eyes",
    "trio": "three clustered eyes",
    "threeRow": "three eyes in a row",
    "four": "four eyes",
    "happy": "happy eyes",
    "closedLine": "closed eyes",
    "wink": "winking eyes",
    "squint": "squinting eyes",
    "wide": "wide eyes",
    "sleepy": "sleepy eyes",
    "angry": "angry eyes",
    "monoSleepy": "one sleepy eye",
    "close": "narrow-set eyes",
}
MOUTH = {
    "smile": "smiling",
    "tinySmile": "slightly smiling",
    "grin": "grinning",
    "laugh": "laughing",
    "teeth": "toothy",
    "ooh": "round",
    "line": "straight",
    "smirk": "smirking",
    "catMouth": "cat",
    "frown": "frowning",
    "slant": "slanted",
    "dot": "tiny",
    "tooth": "single-toothed",
    "tongue": "tongue-showing",
    "blep": "blep",
}
TOP = {
    "hornsIn": "inward horns",
    "hornsSmall": "small horns",
    "spike": "a spike",
    "antenna": "an antenna",
    "antennae": "two antennae",
    "earsRound": "round ears",
    "earsPointy": "pointy ears",
    "earsDroop": "droopy ears",
    "fin": "a fin",
    "crown": "a crown",
    "sprout": "a sprout",
    "nub": "a nub",
    "bobble": "a bobble",
}


def caption(values: Mapping[str, str]) -> str:
    """For example "a mint blob creature with winking eyes, a sad mouth and horns on its head, on
    rust". An absent top is left out; so are pattern, cheeks and the colour of the top."""
    colour = values["body_colour"]
    creature = f"{article(colour)} {BODY.get(values['body'], values['body'])} creature"
    eyes = EYES.get(values["eyes"], values["eyes"])
    mouth = f"{article(MOUTH.get(values['mouth'], values['mouth']))} mouth"
    top = values["top"]
    if top == "none":
        return f"{creature} with {eyes} and {mouth}, on {values['background']}"
    head = f"{TOP.get(top, top)} on its head"
    return f"{creature} with {eyes}, {mouth} and {head}, on {values['background']}"


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
