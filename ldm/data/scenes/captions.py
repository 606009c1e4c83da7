"""Captions of scenes: the same facts in the many ways in which people type them."""

import random
from collections.abc import Mapping, Sequence

from ldm.data.scenes.colours import SPELLINGS
from ldm.data.scenes.places import NIGHT, PLACES
from ldm.data.scenes.scene import Facts, Shown
from ldm.data.scenes.things import Thing, plural_of

VOWEL_SOUNDS = ("a", "e", "i", "o", "u", "hour", "x-", "suv")
CONSONANT_SOUNDS = ("uni", "eu", "one", "ufo", "use", "ukulele")
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}
STYLE_WORDS = {
    "fluent-3d": ("soft 3d render", "3d render", "3d"),
    "fluent-flat": ("flat fluent", "flat illustration", "flat design"),
    "twemoji": ("flat twemoji", "emoji", "cartoon"),
}
SIZES = {
    "tiny": ("tiny", "very small"),
    "small": ("small", "little"),
    "large": ("large", "big"),
    "huge": ("huge", "giant"),
}


def caption(facts: Facts, things: Mapping[str, Thing], rng: random.Random) -> str:
    """One caption of a scene, drawn from `rng`: articles and plurals are right, what is not to be said is left out."""
    text = _content(facts, things, rng)
    if facts.place is not None:
        text = _in_place(text, facts, rng)
    elif facts.ground is not None:
        text = _on_ground(text, facts.ground, rng)
    if facts.style is not None:
        words = rng.choice(STYLE_WORDS.get(facts.style, (facts.style,)))
        text = rng.choice([f"{text}, {words}", f"{text}, {words}", f"{words} of {text}"])
    return text


def with_article(words: str) -> str:
    """The words with "a" or "an" before them, by sound: "an orange cat", "a unicorn", "an hourglass"."""
    vowel = words.startswith(VOWEL_SOUNDS) and not words.startswith(CONSONANT_SOUNDS)
    return f"{'an' if vowel else 'a'} {words}"


def noun(shown: Shown, thing: Thing, rng: random.Random, *, article: bool = True) -> str:
    """A thing with what is said of it: "a small red apple"."""
    name = _name(thing, rng)
    words = " ".join([*_adjectives(shown, rng), name])
    return with_article(words) if article and thing.plural is not None and name not in thing.masses else words


def counted(count: int, shown: Shown, thing: Thing, rng: random.Random) -> str:
    """A number of one thing: "three red apples"."""
    name = _name(thing, rng, counted=True)
    if count == 1:
        return " ".join(["one", *_adjectives(shown, rng), name])
    many = thing.plural if name == thing.name else plural_of(name)
    number = str(count) if rng.random() < 0.15 else NUMBERS[count]
    if count == 2 and rng.random() < 0.08:
        number = "a pair of"
    return " ".join([number, *_adjectives(shown, rng), many or name])


def _content(facts: Facts, things: Mapping[str, Thing], rng: random.Random) -> str:
    """What is in the scene, without its ground."""
    if not facts.things:
        return ""
    first = facts.things[0]
    if facts.count is not None:
        return counted(facts.count, first, things[first.name], rng)
    if len(facts.things) == 1:
        return _single(first, things[first.name], rng)
    second = facts.things[1]
    one, two = (noun(shown, things[shown.name], rng) for shown in (first, second))
    return _related(facts.relation, one, two, rng)


def _single(shown: Shown, thing: Thing, rng: random.Random) -> str:
    roll, text = rng.random(), noun(shown, thing, rng)
    if roll < 0.2:
        return noun(shown, thing, rng, article=False)
    if roll < 0.27 and thing.plural is not None and shown.size is None and shown.colour is not None:
        bare = noun(Shown(name=shown.name), thing, rng)
        return f"{bare} that is {rng.choice(SPELLINGS.get(shown.colour, (shown.colour,)))}"
    if roll < 0.4:
        return f"{rng.choice(['a picture of', 'a drawing of', 'an image of'])} {text}"
    return text


def _related(relation: str | None, one: str, two: str, rng: random.Random) -> str:
    if relation == "left":
        forms: Sequence[str] = (
            f"{one} to the left of {two}", f"{one} to the left of {two}", f"{one} left of {two}",
            f"{two} to the right of {one}", f"{two} to the right of {one}", f"{two} right of {one}",
            f"{one} on the left and {two} on the right",
        )  # fmt: skip
    elif relation == "above":
        forms = (
            f"{one} above {two}", f"{one} above {two}", f"{one} on top of {two}", f"{two} below {one}",
            f"{two} below {one}", f"{two} under {one}",
        )  # fmt: skip
    elif relation == "beside":
        forms = (f"{one} next to {two}", f"{one} beside {two}", f"{one} and {two} side by side")
    else:
        forms = (f"{one} and {two}", f"{two} and {one}", f"{one} with {two}", f"{one} and {two}")
    return rng.choice(forms)


def _on_ground(text: str, colour: str, rng: random.Random) -> str:
    spelled = rng.choice(SPELLINGS.get(colour, (colour,)))
    ground = with_article(f"{spelled} background")
    roll = rng.random()
    if roll < 0.6:
        return f"{text} on {ground}"
    if roll < 0.75:
        return f"{text}, {spelled} background"
    if roll < 0.82:
        return f"{text} in front of {with_article(f'{spelled} wall')}"
    if roll < 0.9:
        return f"{text} on {spelled}"
    return f"{text} with {ground}"


def _in_place(text: str, facts: Facts, rng: random.Random) -> str:
    where = PLACES[facts.place or ""]
    night = rng.choice(NIGHT) if facts.night else ""
    if not text:
        return f"{rng.choice(where.alone)} {night}".strip()
    return f"{text} {rng.choice(where.phrases)} {night}".strip()


def _name(thing: Thing, rng: random.Random, *, counted: bool = False) -> str:
    others = thing.synonyms if counted else (*thing.synonyms, *thing.masses)
    return rng.choice(others) if others and rng.random() < 0.2 else thing.name


def _adjectives(shown: Shown, rng: random.Random) -> list[str]:
    said = []
    if shown.size is not None:
        said.append(rng.choice(SIZES[shown.size]))
    if shown.colour is not None:
        said.append(rng.choice(SPELLINGS.get(shown.colour, (shown.colour,))))
    return said
