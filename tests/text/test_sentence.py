"""The shipped sentence encoder: the same function as transformers' BERT on the same weights, and its bad inputs."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ldm.convert.minilm import LAYER, MINILM, convert_minilm, from_transformers
from ldm.core.bundle import BundleError
from ldm.nets.sentence import Bert, BertConfig, SentenceEncoder, SentenceSpec

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "minilm"
FLOAT32 = json.loads(
    (Path(__file__).parent / "data" / "minilm_float32.json").read_text()
)  # the original's pooled states
TEXTS = [*FLOAT32, "A Red Apple!", "woman in a wheelchair: facing right", "a b c " * 40]
SMALL = BertConfig(
    layers=2, width=48, heads=4, feed_forward=96, vocab=300, max_positions=20, eps=1e-12, token_scale=1.0
)  # fmt: skip


def encoder(max_tokens: int = 24) -> SentenceEncoder:
    return SentenceEncoder(SentenceSpec(max_tokens=max_tokens), ROOT)


@pytest.fixture(scope="module")
def minilm() -> SentenceEncoder:
    return encoder()


def to_transformers(ours: dict[str, torch.Tensor], config: BertConfig) -> dict[str, torch.Tensor]:
    """The inverse of `from_transformers`, with zeros for what it drops."""
    theirs = {
        "embeddings.word_embeddings.weight": ours["pieces"],
        "embeddings.position_embeddings.weight": ours["positions"],
        "embeddings.token_type_embeddings.weight": torch.zeros(2, config.width),
        "embeddings.LayerNorm.weight": ours["norm.weight"],
        "embeddings.LayerNorm.bias": ours["norm.bias"],
    }
    for i in range(config.layers):
        for name, sources in LAYER.items():
            for part in ("weight", "bias"):
                pieces = ours[f"layers.{i}.{name}.{part}"].chunk(len(sources))
                theirs |= {f"encoder.layer.{i}.{s}.{part}": p for s, p in zip(sources, pieces, strict=True)}
    return {name: tensor.clone() for name, tensor in theirs.items()}


def reference(config: BertConfig):
    """A `BertModel` of transformers in the shape of `config`, without pooler."""
    from transformers import BertConfig as TheirConfig
    from transformers import BertModel

    theirs = TheirConfig(
        vocab_size=config.vocab,
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=config.feed_forward,
        max_position_embeddings=config.max_positions,
        layer_norm_eps=config.eps,
        initializer_range=0.3,  # far from the identity
    )
    return BertModel(theirs, add_pooling_layer=False).eval()


@torch.no_grad()
def test_random_weights_give_the_states_of_transformers():
    theirs = reference(SMALL).double()
    ours = Bert(SMALL).double()
    ours.load_state_dict(from_transformers(theirs.state_dict(), SMALL))
    ids = torch.randint(0, SMALL.vocab, (3, 12))
    mask = torch.arange(12) < torch.tensor([2, 7, 12])[:, None]
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(ours(F.embedding(ids, ours.pieces), mask)[mask], expected[mask], atol=1e-10)


@torch.no_grad()
def test_shipped_weights_give_the_states_of_transformers(minilm):
    theirs = reference(MINILM)
    theirs.load_state_dict(to_transformers(dict(minilm.bert.state_dict()), MINILM))
    ids, mask = minilm.tokenize(TEXTS)
    expected = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    cond = minilm(TEXTS)
    assert (cond.tokens / minilm.token_scale - expected)[mask].abs().max() < 1e-5
    means = torch.stack([states[words].mean(0) for states, words in zip(expected, mask, strict=True)])
    assert (cond.pooled / MINILM.width**0.5 - F.normalize(means, dim=1)).abs().max() < 1e-5


def test_half_precision_keeps_the_meaning_of_the_original(minilm):
    cosines = F.cosine_similarity(minilm(list(FLOAT32)).pooled, torch.tensor(list(FLOAT32.values())))
    assert cosines.min() > 0.99999


def test_ids_are_those_of_transformers(minilm):
    from transformers import BertTokenizerFast

    vocab = json.loads((SHIPPED / "tokenizer.json").read_text())["model"]["vocab"]
    theirs = BertTokenizerFast(vocab=vocab, do_lower_case=True)
    expected = theirs(TEXTS, padding="max_length", max_length=24, truncation=True, return_tensors="pt")
    ids, mask = minilm.tokenize(TEXTS)
    assert torch.equal(ids, expected["input_ids"])
    assert torch.equal(mask, expected["attention_mask"].bool())


def test_padding_changes_no_word(minilm):
    short, long = minilm(["a red apple"]), encoder(64)(["a red apple"])
    words = int(short.mask.sum())
    assert words == int(long.mask.sum()) == 5
    assert torch.allclose(short.tokens[:, :words], long.tokens[:, :words], atol=1e-5)
    assert torch.allclose(short.pooled, long.pooled, atol=1e-5)
    assert (long.tokens[:, words:] == 0).all()


def test_a_caption_is_the_same_in_any_batch(minilm):
    alone, among = minilm(["puppy"]), minilm(["a much longer caption, so that lengths differ", "puppy"])
    assert torch.allclose(alone.tokens[0], among.tokens[1], atol=1e-5)
    assert torch.allclose(alone.pooled[0], among.pooled[1], atol=1e-5)


@pytest.mark.parametrize(
    ("word", "near", "far"),
    [("puppy", "dog", "rocket"), ("automobile", "car", "apple"), ("grinning", "smiling", "bicycle")],
)
def test_synonyms_are_near(minilm, word, near, far):
    states = minilm([word, near, far]).pooled
    assert F.cosine_similarity(states[0], states[1], dim=0) > F.cosine_similarity(states[0], states[2], dim=0) + 0.2


def test_states_have_unit_scale(minilm):
    captions = [f"{name}, flat, on a red background" for name in ("dog", "face with tears of joy", "rocket", "pizza")]
    cond = minilm(captions)
    assert 0.9 < cond.tokens[cond.mask].square().mean().sqrt() < 1.1
    assert cond.pooled.square().mean(1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("caption", "words"), [("", 2), ("   ", 2), ("😀", 3), ("שלום עולם", None), ("مرحبا", None), ("\x00\u202e a", None)]
)
def test_every_text_has_states(minilm, caption, words):
    cond = minilm([caption])
    assert cond.tokens.shape == (1, 24, minilm.width) and cond.pooled.shape == (1, minilm.pooled_width)
    assert cond.tokens.isfinite().all() and cond.pooled.isfinite().all()
    assert int(cond.mask.sum()) == words if words else int(cond.mask.sum()) > 2


def test_no_captions_are_an_empty_batch(minilm):
    assert minilm([]).tokens.shape == (0, 24, minilm.width)


@pytest.mark.parametrize(
    ("caption", "cut"),
    [
        ("", ""),
        ("red apple", ""),
        ("a b c", ""),
        ("a b c d", "d"),
        ("Red  Apple\nTree, House", ", House"),  # as typed; a comma is a word piece of its own
        ("a b c.", "."),
        ("a kaleidoscope", "kaleidoscope"),  # its first pieces fit, the word does not
        ("a b c ✨ d", "✨ d"),
    ],
)
def test_cut_words_are_named(caption, cut):
    assert encoder(5).cut(caption) == cut


@given(st.text(max_size=200))
def test_cut_words_are_the_end_of_the_caption_and_only_they_are_lost(minilm, caption):
    cut = minilm.cut(caption)
    assert " ".join(caption.split()).endswith(cut)
    kept = caption.strip()[: len(caption.strip()) - len(cut)] if cut and " ".join(caption.split()) == caption else None
    if kept is not None:
        ids, mask = minilm.tokenize([kept, caption])
        words = int(mask[0].sum()) - 1  # without the end mark
        assert torch.equal(ids[0, :words], ids[1, :words])


def test_a_long_prompt_is_cut_and_fast(minilm):
    prompt = " ".join(f"word{i}" for i in range(10_000))
    start = time.process_time()
    cond, cut = minilm([prompt]), minilm.cut(prompt)
    assert time.process_time() - start < 5  # 0.1 s on an idle machine
    assert cond.mask.all()
    assert cut.endswith("word9999") and 9_980 < len(cut.split()) < 10_000


def test_autocast_does_not_narrow_the_states(minilm):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = minilm(["a red apple"])
    assert torch.equal(narrow.tokens, minilm(["a red apple"]).tokens)


def test_nothing_is_trained(minilm):
    assert not minilm.trainable
    assert not any(parameter.requires_grad for parameter in minilm.parameters())


def test_conversion_reproduces_the_shipped_file(tmp_path):
    ours = {name: tensor.float() for name, tensor in load_file(SHIPPED / "model.safetensors").items()}
    save_file(to_transformers(ours, MINILM), tmp_path / "model.safetensors")
    shutil.copy(SHIPPED / "tokenizer.json", tmp_path)
    convert_minilm(tmp_path, tmp_path / "out")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_bytes() == (SHIPPED / name).read_bytes(), name


def test_conversion_names_the_file_it_cannot_use(tmp_path):
    with pytest.raises(BundleError, match=r"model\.safetensors: no such file"):
        convert_minilm(tmp_path, tmp_path / "out")
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    shutil.copy(SHIPPED / "tokenizer.json", tmp_path)
    with pytest.raises(BundleError, match=r"model\.safetensors: .*token_type_embeddings.*absent"):
        convert_minilm(tmp_path, tmp_path / "out")


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        (tmp_path / name).symlink_to(SHIPPED / name)
    return tmp_path


def refused(folder: Path) -> str:
    with pytest.raises(ValueError) as error:
        SentenceEncoder(SentenceSpec(bundle=str(folder)))
    assert "\n" not in str(error.value)
    return str(error.value)


def replace(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def test_a_missing_folder_is_named(tmp_path):
    assert f"{tmp_path / 'none'}: no such folder" in refused(tmp_path / "none")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign"])
def test_a_damaged_file_is_named(folder, name, damage):
    whole = (folder / name).read_bytes()
    match damage:
        case "missing":
            (folder / name).unlink()
        case "empty":
            replace(folder / name, b"")
        case "truncated":
            replace(folder / name, whole[: len(whole) // 2])
        case "foreign":
            replace(folder / name, b"\x80\x02}q\x00." * 100)
    assert str(folder / name) in refused(folder)


def test_weights_of_another_network_are_refused(folder):
    (folder / "model.safetensors").unlink()
    save_file({"conv.weight": torch.zeros(1)}, folder / "model.safetensors")
    assert "tensor 'conv.weight' has shape (1,), expected absent" in refused(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 385}, "does not divide width 385"),
        ({"vocab": 10}, "30522 word pieces, but the network has 10"),
        ({"layers": 5}, "tensor 'layers.5"),
        ({"depth": 5}, "unknown key"),
    ],
)
def test_a_wrong_configuration_is_refused(folder, change, message):
    config = json.loads((folder / "config.json").read_text()) | change
    replace(folder / "config.json", json.dumps(config).encode())
    assert message in refused(folder)


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match="max_tokens: 2; at least 3"):
        SentenceSpec(max_tokens=2)
    with pytest.raises(ValueError, match="max_tokens: 257 is more than the 256"):
        encoder(257)


def test_what_is_no_list_of_texts_is_refused(minilm):
    with pytest.raises(ValueError, match="put it in a list"):
        minilm.tokenize("a red apple")
    with pytest.raises(ValueError, match="character 2 is not valid Unicode"):
        minilm.tokenize(["a \ud800"])
