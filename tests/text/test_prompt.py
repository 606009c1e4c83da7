"""The grammar of prompts, and prompts longer than an encoder reads at once."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.nets.prompt import Prompt, as_written, parse
from ldm.nets.reading import CHUNKS, chunks_of, emphasised, read, unread
from ldm.nets.text import ClipSpec, SentenceSpec, build_text

ROOT = Path(__file__).parents[2]
SPECS = {
    "sentence": SentenceSpec(max_tokens=12),
    "clip": ClipSpec(width=64, layers=2, heads=4, max_tokens=12, pooled=True),
}
MARKS = r"()[]\:"


@pytest.fixture(scope="module", params=SPECS)
def encoder(request):
    torch.manual_seed(0)
    return build_text(SPECS[request.param], ROOT)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a red apple", [("a red apple", 1.0)]),
        ("a (red) apple", [("a ", 1.0), ("red", 1.1), (" apple", 1.0)]),
        ("((red)) [apple]", [("red", 1.1 * 1.1), (" ", 1.0), ("apple", 1 / 1.1)]),
        ("(red:1.3) apple", [("red", 1.3), (" apple", 1.0)]),
        ("(a (red:1.5) apple:2)", [("a ", 2.0), ("red", 3.0), (" apple", 2.0)]),
        ("(red : .5 )", [("red ", 0.5)]),
        ("(red:1) apple", [("red apple", 1.0)]),
        (r"a \(red\) \[apple\] \\", [(r"a (red) [apple] \ ".rstrip(), 1.0)]),
        (r"C:\path", [(r"C:\path", 1.0)]),
        ("a :) face (", [("a :) face (", 1.0)]),
        ("(red] apple)", [("red] apple", 1.1)]),
        ("(time 12:30)", [("time 12", 30.0)]),
        ("(time: noon)", [("time: noon", 1.1)]),
        ("()(:2)", []),
        ("", []),
    ],
)
def test_grammar(text, parts):
    assert list(parse(text).parts) == [(words, pytest.approx(weight)) for words, weight in parts]


@given(st.text(alphabet=st.characters(blacklist_characters=MARKS[:5]), max_size=40))
def test_a_text_without_marks_is_itself(text):
    assert str(parse(text)) == text and parse(text).plain


@given(st.text(max_size=30))
def test_what_is_escaped_is_itself(text):
    escaped = as_written(text)
    assert str(parse(escaped)) == text and parse(escaped).plain
    if text and ":" not in text:
        assert parse(f"({escaped}:1.5)").parts == ((text, 1.5),)


@given(st.text(alphabet=MARKS + "a b,1.", max_size=40))
def test_anything_is_read(text):
    try:
        prompt = parse(text)
    except ValueError as error:
        assert "times" in str(error)
        return
    assert all(words for words, _ in prompt.parts) and len(str(prompt)) <= len(text)
    whole = prompt[slice(0, None)]
    assert whole == prompt and str(prompt[slice(1, 4)]) == str(prompt)[1:4]


def test_too_heavy():
    with pytest.raises(ValueError, match="prompt: brackets make a word count .* times; 100 is the most"):
        parse("(" * 60 + "red" + ")" * 60)
    assert str(parse("(" * 100_000)) == "(" * 100_000


def same(a, b):
    assert all(torch.equal(a.present()[name], b.present()[name]) for name in a.present() | b.present())


@pytest.mark.parametrize("text", ["a red apple", "", "a (red:1) apple", r"a \(red\) apple"])
def test_a_plain_prompt_is_read_as_the_encoder_reads_it(encoder, text):
    same(read(encoder, [parse(text)]), encoder([str(parse(text))]))


def test_words_alone_make_the_tokens_of_the_whole(encoder):
    """Weighing one word leaves every other token where it was: only its own states are scaled against the others."""
    plain = encoder(["a red apple, flat"]).tokens[0]
    heavy = read(encoder, [parse("a (red:1.5) apple, flat")]).tokens[0]
    words = plain.abs().sum(-1) > 0
    ratio = (heavy * plain).sum(-1)[words] / plain.square().sum(-1)[words]
    torch.testing.assert_close(heavy[words], plain[words] * ratio[:, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ratio[2] / ratio[0], torch.tensor(1.5))  # start mark, a, red
    torch.testing.assert_close(ratio[[1, 3]], ratio[[0, 0]])


@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.floats(0.25, 4), min_size=6, max_size=6), keep_mean=st.booleans())
def test_what_is_to_stay_stays(weights, keep_mean):
    tokens = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    heavy = emphasised(tokens, torch.tensor([weights]), keep_mean=keep_mean)
    measure = (lambda x: x.mean()) if keep_mean else (lambda x: x.square().mean().sqrt())
    torch.testing.assert_close(measure(heavy), measure(tokens), rtol=1e-4, atol=0)
    assert torch.equal(emphasised(tokens, torch.ones(1, 6), keep_mean=keep_mean), tokens)


def test_the_sentence_is_pooled_by_weight():
    """A heavier word draws the pooled state towards the text that says it more."""
    encoder = build_text(SPECS["sentence"], ROOT)
    plain, red, apple = (read(encoder, [parse(t)]).pooled for t in ("red apple", "(red:3) apple", "red (apple:3)"))
    alone = encoder(["red"]).pooled
    near = [torch.cosine_similarity(pooled, alone).item() for pooled in (red, plain, apple)]
    assert near == sorted(near, reverse=True)


def test_a_long_prompt_is_read_in_chunks_that_stand_alone(encoder):
    words = [f"{colour} {thing}," for colour in ("red", "green", "blue") for thing in ("apple", "car", "tree", "cat")]
    prompt = parse(" ".join(words))
    chunks = chunks_of(encoder, prompt)
    cond = read(encoder, [prompt], chunks)
    assert 2 <= chunks < CHUNKS and unread(encoder, prompt) == ""
    assert cond.tokens.shape == (1, chunks * encoder.max_tokens, encoder.width)
    first, text = cond.tokens[:, : encoder.max_tokens], str(prompt)
    begun = [text[: found.end()] for found in re.finditer(",", text)]  # chunks end at commas
    assert any(torch.allclose(encoder([start]).tokens, first, atol=1e-5) for start in begun)


def test_chunks_that_a_prompt_does_not_need_change_nothing_or_are_empty_texts(encoder):
    short, prompt = encoder(["a red apple"]), parse("a red apple")
    cond, n = read(encoder, [prompt, parse("far too long " * 6)], 3), encoder.max_tokens
    torch.testing.assert_close(cond.tokens[:1, :n], short.tokens)
    torch.testing.assert_close(cond.pooled[:1], short.pooled)
    if cond.mask is None:
        torch.testing.assert_close(cond.tokens[:1, n : 2 * n], encoder([""]).tokens)
    else:
        assert torch.equal(cond.mask[0, :n], short.mask[0]) and not cond.mask[0, n:].any()
        assert (cond.tokens[0, n:] == 0).all()


@given(words=st.lists(st.sampled_from(["red", "apple,", "extraordinarily", "a", "(b", "c:2)"]), max_size=150))
@settings(max_examples=25, deadline=None)
def test_every_word_is_read_or_told(words):
    encoder, prompt = sentence(), parse(" ".join(words))
    said = [word for word, _ in prompt.words()]
    left = unread(encoder, prompt).split()
    assert left == said[len(said) - len(left) :]
    if left:
        assert chunks_of(encoder, prompt) == CHUNKS
    else:
        assert sum(len(encoder.spell(word)) for word in said) <= CHUNKS * (encoder.max_tokens - 2)


def sentence(kept=[]):  # noqa: B006  # read once for all examples
    if not kept:
        kept.append(build_text(SPECS["sentence"], ROOT))
    return kept[0]


def test_weighted_prompts_are_prompts():
    prompt = parse("a (red:1.5), [flat]")
    assert isinstance(prompt, Prompt) and list(prompt.words()) == [
        ("a", 1.0), ("red", 1.5), (",", 1.0), ("flat", pytest.approx(1 / 1.1)),
    ]  # fmt: skip
