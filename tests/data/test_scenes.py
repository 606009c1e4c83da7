"""Scenes: what a caption says is what the picture shows, and training never sees what is held out."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from ldm.data.folder import FolderSpec, ImageFolder
from ldm.data.scenes import split
from ldm.data.scenes.art import Art, load_art, sprite_of
from ldm.data.scenes.captions import NUMBERS, caption, with_article
from ldm.data.scenes.colours import COLOURS, hsl, main_hue, recolour, rgb_of
from ldm.data.scenes.places import PLACES, place
from ldm.data.scenes.prepare import SceneSet, prepare
from ldm.data.scenes.scene import KINDS, SceneSpec, compose, facts_of
from ldm.data.scenes.things import emoji_names, plural_of, things

NAMES = [name for name, thing in things().items() if thing.plural][:40]
COMBINED = ("colour", "count", "two", "position", "two_colours")


def drawing(number: int, mode: str = "RGBA") -> Image.Image:
    picture = Image.new(mode, (64, 64))
    shape = [(6, 30 - number % 20), (58, 34 + number % 20)]
    ImageDraw.Draw(picture).ellipse(shape, fill=(40 + 3 * number, 200 - 4 * number, 60, 255))
    return picture


@pytest.fixture(scope="module")
def art() -> Art:
    sprites = {(name, "own"): [sprite_of(drawing(i))] for i, name in enumerate(NAMES)}
    return Art(things={name: things()[name] for name in NAMES}, sprites=sprites, styles=("own",))


def only(kind, **more):
    return SceneSpec(size=64, weights={kind: 1.0}, **more)


def test_a_scene_is_a_function_of_seed_and_number(art):
    first, again, other = (compose(art, SceneSpec(size=64), 3, n) for n in (5, 5, 6))
    assert first.facts == again.facts and first.picture.tobytes() == again.picture.tobytes()
    assert first.picture.tobytes() != other.picture.tobytes()


@pytest.mark.parametrize("kind", COMBINED)
def test_training_shows_nothing_that_is_held_out_and_the_other_split_always_does(art, kind):
    for name, held in (("train", False), ("heldout", True)):
        for number in range(60):
            facts = compose(art, only(kind, split=name), 0, number).facts
            names = [shown.name for shown in facts.things]
            assert not any(split.held_thing(n) for n in names)
            found = any(shown.colour and split.held_colour(shown.name, shown.colour) for shown in facts.things)
            found |= facts.count is not None and split.held_count(facts.count, names[0])
            found |= len(names) == 2 and split.held_pair(*names)
            assert found == held


def test_shares_of_what_is_held_out():
    names = list(things())
    colours = np.mean([split.held_colour(n, c) for n in names for c in COLOURS])
    counts = np.mean([split.held_count(k, n) for n in names for k in (2, 3, 4, 5)])
    pairs = np.mean([split.held_pair(a, b) for a, b in zip(names, names[1:], strict=False)])
    assert all(0.1 < share < 0.2 for share in (colours, counts, pairs))
    assert not any(split.held_count(1, n) for n in names)
    assert all(split.held_pair(a, b) == split.held_pair(b, a) for a, b in zip(names, names[1:], strict=False))
    assert 0 < np.mean([split.held_thing(n) for n in names]) < 0.05


def test_positions_are_those_that_the_caption_says(art):
    for number in range(80):
        facts = compose(art, only("position"), 0, number).facts
        (l0, t0, r0, b0), (l1, t1, r1, b1) = facts.boxes
        if facts.relation == "left":
            assert l0 + r0 < l1 + r1 and r0 <= l1 + 2
        else:
            assert t0 + b0 < t1 + b1 and b0 <= t1 + 2


def test_as_many_things_are_shown_as_are_counted_and_none_lies_on_another(art):
    for number in range(80):
        facts = compose(art, SceneSpec(size=128, weights={"count": 1.0}), 0, number).facts
        assert len(facts.boxes) == facts.count
        middles = [((left + right) / 2, (top + bottom) / 2) for left, top, right, bottom in facts.boxes]
        assert all(np.hypot(a[0] - b[0], a[1] - b[1]) > 30 for i, a in enumerate(middles) for b in middles[:i])


@pytest.mark.parametrize("kind", KINDS)
def test_captions_say_what_the_facts_are_and_no_more(art, kind):
    for number in range(40):
        scene = compose(art, only(kind), 1, number)
        facts, text = scene.facts, caption(scene.facts, art.things, random.Random(number))
        assert facts_of(json.loads(json.dumps(facts.row()))) == facts
        assert not re.search(r"\b(a|an) (a|an)\b|\ba [aeio]|  |\ban [bcdfgjklmnpqrtvwyz]|^ | $", text), text
        assert ("background" in text or "wall" in text or " on " in text) or facts.ground is None
        said = {colour for colour in COLOURS if re.search(rf"\b{colour}\b", text)}
        known = {shown.colour for shown in facts.things} | {facts.ground} | set(" ".join(NAMES).split())
        assert said <= known | ({"green", "blue"} if facts.place else set()), text
        if facts.count:
            assert re.match(rf"({NUMBERS[facts.count]}|{facts.count}|a pair of) ", text)
        for shown in facts.things:
            thing = art.things[shown.name]
            words = [thing.name, thing.plural, *thing.synonyms, *map(plural_of, thing.synonyms), *thing.masses]
            assert any(word and word in text for word in words), text


@pytest.mark.parametrize(
    ("words", "right"),
    [("apple", "an apple"), ("unicorn", "a unicorn"), ("umbrella", "an umbrella"), ("hourglass", "an hourglass"),
     ("house", "a house"), ("orange cat", "an orange cat"), ("ufo", "a ufo")],
)  # fmt: skip
def test_articles_follow_the_sound(words, right):
    assert with_article(words) == right


@pytest.mark.parametrize(
    ("one", "many"), [("bus", "buses"), ("cherry", "cherries"), ("key", "keys"), ("cup of tea", "cups of tea")]
)
def test_plurals(one, many):
    assert plural_of(one) == many


def test_the_table_of_things_has_no_word_twice():
    table = things()
    assert len(table) >= 600
    assert len(emoji_names(table)) == sum(len(thing.emoji) for thing in table.values()), "one emoji draws two things"
    with pytest.raises(ValueError, match="twice"):
        things("cat\ncat")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_hue_saturation_lightness_and_back(seed):
    rgb = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.abs(rgb_of(*hsl(rgb)) * 255 - rgb).max() < 0.01


@given(st.sampled_from(sorted(COLOURS)), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_recolouring_gives_the_colour_and_keeps_the_outline(colour, number):
    rgba = np.array(drawing(number))
    painted = recolour(rgba, main_hue(rgba), COLOURS[colour])
    assert np.array_equal(painted[..., 3], rgba[..., 3])
    inside = painted[rgba[..., 3] > 128][:, :3]
    assert np.abs(np.median(inside, 0) - COLOURS[colour]).max() < 40


@pytest.mark.parametrize("name", PLACES)
def test_places_can_be_painted_at_any_size(name):
    for side, night in ((32, False), (65, True), (128, False)):
        picture = place(name, side, random.Random(0), night=night and PLACES[name].at_night)
        assert picture.size == (side, side) and np.array(picture).std() > 3


def test_a_set_is_read_like_any_folder_and_does_not_depend_on_the_processes(art, tmp_path):
    sets = [SceneSet(name="train", spec=SceneSpec(size=32), count=12)]
    for jobs in (1, 2):
        prepare(art, sets, out=tmp_path / str(jobs), seed=0, jobs=jobs)
    files = [path.relative_to(tmp_path / "1") for path in sorted((tmp_path / "1").rglob("*")) if path.is_file()]
    assert all((tmp_path / "1" / f).read_bytes() == (tmp_path / "2" / f).read_bytes() for f in files)
    folder = ImageFolder(FolderSpec(path=str(tmp_path / "1" / "train"), size=32))
    assert len(folder) == 12 and not folder.faults and folder[3].caption
    prepare(art, sets, out=tmp_path / "1", seed=1)  # replaces its own
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="was not written by this script"):
        prepare(art, sets, out=tmp_path / "mine", seed=0)


def test_own_art_is_named_by_its_files_and_bad_files_are_named_once(tmp_path):
    for number in range(20):
        drawing(number).save(tmp_path / f"thing_{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    found = load_art(tmp_path / "cache", (), tmp_path)
    assert "thing 7" in found.things and len(found.faults) == 1 and "broken.png" in found.faults[0]
    Image.new("RGB", (8, 8)).save(tmp_path / "opaque.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "empty.png")
    with pytest.raises(ValueError, match="3 of 23 drawings are bad"):
        load_art(tmp_path / "cache", (), tmp_path)
    with pytest.raises(ValueError, match="has no pictures"):
        load_art(tmp_path / "cache", (), tmp_path / "missing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size"),
        ({"weights": {}}, "weights"),
        ({"weights": {"one": 0.0}}, "weights"),
        ({"weights": {"one": -1.0}}, "weights"),
        ({"styled": 2.0}, "styled"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SceneSpec(**options)
