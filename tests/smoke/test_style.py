"""A prompt that only names a thing is drawn as the model does it best, and says so."""

from dataclasses import replace

import pytest
import stages

from ldm.model_folder import AUTOENCODER, load_model, save_model


@pytest.fixture(scope="module")
def styled(model_folder, tmp_path_factory):
    """The model of the other tests, which draws in ink where it is not told how."""
    model, folder = load_model(model_folder), tmp_path_factory.mktemp("styled")
    config = replace(model.config, sample=replace(model.config.sample, style="in ink"))
    save_model(folder, config, dict(model.stored().state_dict()), model_folder / AUTOENCODER)
    return folder


def test_it_is_added_to_what_only_names_a_thing(txt2img, styled, tmp_path):
    code, lines, (drawn,) = txt2img("--prompt", "a fox ", model=styled)
    assert code == 0 and lines[0] == "drawn as 'a fox, in ink'; --style '' draws the prompt as it is"
    _, lines, (said,) = txt2img("--prompt", "a fox, in ink", model=styled, out=tmp_path / "said")
    assert "drawn as" not in lines[0] and said.read_bytes() == drawn.read_bytes()
    _, lines, (again,) = txt2img("--from-picture", drawn, model=styled, out=tmp_path / "again")
    assert again.read_bytes() == drawn.read_bytes() and not any("drawn as" in line for line in lines)


@pytest.mark.parametrize("options", [("--steps", "0"), ("--width", "33"), ("--scale", "-1"), ("--guidance", "lw=9")])
def test_a_refusal_stays_one_line(txt2img, styled, options):
    stages.assert_refused(txt2img("--prompt", "a fox", *options, model=styled))


def test_a_long_prompt_is_shortened_in_what_is_said_of_it(txt2img, styled):
    code, lines, _ = txt2img("--prompt", " ".join(map(str, range(10_000))), model=styled)
    assert code == 0 and lines[0].startswith("drawn as '0 1 2") and max(map(len, lines)) < 400


@pytest.mark.parametrize(
    ("style", "prompt", "name"),
    [
        ("in oil", "a fox", "a-fox-in-oil-0.png"),
        ("", "a fox", "a-fox-0.png"),
        ("in oil", "a fox, small", "a-fox-small-0.png"),
        ("in oil", "", "picture-0.png"),
    ],
)
def test_another_one_and_none_can_be_asked_for(txt2img, styled, style, prompt, name):
    code, lines, (drawn,) = txt2img("--prompt", prompt, "--style", style, model=styled)
    assert code == 0 and drawn.name == name and not any("drawn as" in line for line in lines)
