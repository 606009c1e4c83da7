"""From a configuration to objects: the only composition root."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from autoencoder.build import load_autoencoder
from ldm.codec import Codec, IdentityCodec, LatentStats, ScaledCodec
from ldm.config import MATCHED, CodecSpec, RunConfig, SampleSpec
from ldm.denoiser import Denoiser, NetDenoiser, bind
from ldm.guidance.combine import Combine
from ldm.guidance.free import classifier_free
from ldm.guidance.spec import GuidanceSpec
from ldm.nets.cond import Cond
from ldm.nets.guess import LatentGuess, with_phrases
from ldm.nets.text import ClipSpec, TextEncoder
from ldm.nets.unet import UNet
from ldm.nets.vocabulary import Vocabulary
from ldm.process.grid import TimeGrid, spaced
from ldm.process.schedule import Schedule
from ldm.samplers import bind_options
from ldm.samplers.learned import as_sampler
from ldm.samplers.loop import Sampler
from ldm.samplers.tuned import TUNED, Choice, Tuned, load_tuned

FITTED_WITHIN = 1.0  # of a guidance scale that was measured, what was found for it is still trusted


@dataclass(frozen=True)
class Model:
    """Everything that drawing and measuring need.

    Attributes:
        config: what it was built from.
        denoise: the network as a function (x_t, logsnr, cond) -> Denoised.
        schedule: level as a function of time.
        codec: pictures to latents and back.
        text: captions to conditions.
        guess: the guess of the latent that the U-Net reads; None: it reads none.
        latents: what makes the latents: the hash of the autoencoder's encoder, and a scale of its own if one is set;
            "identity" for diffusion on pixels.
        sha256: content hash of the stage-2 weights; "" for a model that was not loaded from a file.
        folder: where it was loaded from, and where its tuned tables are; None for a model that was not.
        vocabulary: what the guess knows, and reads other phrases as; None: it reads all as they were written.
    """

    config: RunConfig
    denoise: NetDenoiser
    schedule: Schedule
    codec: Codec
    text: TextEncoder
    guess: LatentGuess | None = None
    latents: str = ""
    sha256: str = ""
    folder: Path | None = None
    vocabulary: Vocabulary | None = None

    @property
    def key(self) -> str:
        """What it is, wherever its folder lies: the weights of its networks and encoder, and what its guess knows."""
        known = [] if self.vocabulary is None else [self.vocabulary.key]
        return " ".join([self.sha256, self.latents, *known])

    def to(self, device: torch.device | str) -> "Model":
        """The same model with all weights on `device`."""
        self.denoise.to(device)
        self.codec.to(device)
        self.text.to(device)  # type: ignore[attr-defined]
        if self.guess is not None:
            self.guess.to(device)
        return self

    @property
    def unit(self) -> int:
        """Pixels that the sides of a picture are multiples of."""
        return self.codec.factor * 2 ** (len(self.config.net.mult) - 1)

    def learned(self) -> nn.ModuleDict:
        """The networks that training changes: "net" and, where it is trainable, "text"."""
        parts: dict[str, nn.Module] = {"net": self.denoise.net}
        if self.text.trainable and isinstance(self.text, nn.Module):
            parts["text"] = self.text
        return nn.ModuleDict(parts)

    def stored(self) -> nn.ModuleDict:
        """Everything of stage 2 that a bundle keeps: what is learned, the guess, a text encoder found nowhere else."""
        parts = dict(self.learned().items())
        if self.guess is not None:
            parts["guess"] = self.guess
        if isinstance(self.config.text, ClipSpec) and self.config.text.kept and isinstance(self.text, nn.Module):
            parts["text"] = self.text
        return nn.ModuleDict(parts)

    def unlearned(self) -> dict[str, Tensor]:
        """Tensors of `stored` that training does not change, to be saved beside those that it does."""
        learned = {f"{part}." for part in self.learned()}
        return {n: tensor for n, tensor in self.stored().state_dict().items() if not n.startswith(tuple(learned))}

    def condition(self, captions: Sequence[str], size: tuple[int, int] | None = None) -> Cond:
        """The conditions of `captions`, for latents of `size` (height, width); None: of the trained size."""
        return self.guessed(self.read(captions), size)

    def guessed(self, cond: Cond, size: tuple[int, int] | None = None) -> Cond:
        """`cond`, as `read` gave it, with the guess of the latent where there is one."""
        return cond if self.guess is None else self.guess.into(cond, size)

    def guided(self, cond: Cond, null: Cond, scale: float, steps: int, combine: Combine | None = None) -> Denoiser:
        """The network with its conditions and classifier-free guidance: by two evaluations, or as it was distilled.

        Args:
            cond: what to draw.
            null: the empty or the negative prompt; a distilled network does not read it.
            scale: guidance scale, 0 or more; for a distilled network in the range that it was taught.
            steps: network evaluations along the path, of which a distilled network was taught certain numbers.
            combine: another rule of guidance, see `classifier_free`.

        Raises:
            ValueError: `scale` out of range, or a rule for a distilled network, whose rule is fixed.
        """
        taught = self.config.net.distilled
        if taught is None:
            return classifier_free(self.denoise, cond, null, scale, combine)
        if not taught[0] <= scale <= taught[1]:
            raise ValueError(
                f"scale: {scale} is not in {taught[0]:g} to {taught[1]:g}, what this model was distilled for"
            )
        if combine is not None:
            raise ValueError("guidance: this model was distilled with plain guidance; choose only its scale")
        full = torch.ones(len(cond), device=cond.tokens.device)
        return bind(self.denoise, replace(cond, scale=scale * full, stride=full / steps))

    def read(self, captions: Sequence[str]) -> Cond:
        """What the text encoder makes of `captions`, with the phrases where there is a guess to read them."""
        if self.guess is None:
            return self.text(list(captions))
        return with_phrases(self.text, captions, self.unread, vocabulary=self.vocabulary)

    @property
    def unread(self) -> tuple[str, ...]:
        """Words that the guess passes over."""
        return () if self.config.guess is None else self.config.guess.unread

    def as_written(self) -> "Model":
        """The same networks, with a guess that reads every phrase as it is written: to weigh captions, not to draw."""
        return replace(self, vocabulary=None)

    def passing_over(self, words: Sequence[str]) -> "Model":
        """The same networks, with a guess that does not read `words`, which came into use after it was trained."""
        spec = self.config.guess
        if spec is None or not words:
            return self
        unread = (*spec.unread, *(word for word in words if word not in spec.unread))
        return replace(self, config=replace(self.config, guess=replace(spec, unread=unread)))


def build_denoiser(config: RunConfig) -> NetDenoiser:
    """The network of a configuration, with random weights from torch's global generator, as a denoiser."""
    net = UNet(config.net).to(memory_format=torch.channels_last)
    spec = config.prediction
    return NetDenoiser(net, spec.kind, spec.scaling, config.schedule.timesteps, learned_variance=spec.learned_variance)


def build_guess(config: RunConfig) -> LatentGuess | None:
    """The guess of a configuration, with random weights, if it has one."""
    return None if config.guess is None else LatentGuess(config.guess)


def build_codec(spec: CodecSpec, where: Path) -> tuple[Codec, str]:
    """The frozen autoencoder that `spec` names, at the scale of stage 2, and the hash of its latents.

    Args:
        spec: a relative path is looked for in `where`.

    Raises:
        BundleError: the file is missing, damaged or of another kind.
    """
    if not spec.path:
        return IdentityCodec(), "identity"
    model, moments, sha256 = load_autoencoder(where / spec.path)
    model = model.to(memory_format=torch.channels_last)
    stats = LatentStats(moments.mean, moments.std) if spec.scale is None else LatentStats((0.0,), (1 / spec.scale,))
    return ScaledCodec(model, stats), sha256


def latents_name(sha256: str, spec: CodecSpec) -> str:
    """What tells the latents of stage 2 from others: the hash of their encoder, and the scale where one is set."""
    return sha256 if spec.scale is None else f"{sha256} x {spec.scale}"


def build_tables(spec: SampleSpec, model: Model) -> Tuned | None:
    """The tables that `spec` asks for, None where it asks for none.

    Raises:
        ValueError: there are none, they are damaged, or they were measured on another model.
    """
    return load_tuned(model.folder or Path(), model.sha256) if spec.needs_tables else None


def automatic(spec: SampleSpec, model: Model, *, whole: bool = True) -> SampleSpec:
    """`spec` with the sampler, its options and its path that were measured to be the best for its steps and scale.

    The fitted sampler where there is one for exactly these steps and the whole path is walked, once, else the solver
    that was best in the nearest number of steps; `spec` itself for a model whose quality was not measured
    (`scripts/tune_sampler.py --quality`).

    Raises:
        ValueError: the tables beside the model are damaged, or of another model.
    """
    if model.folder is None or not (model.folder / TUNED).is_file():
        return spec
    choice = load_tuned(model.folder, model.sha256).choice(spec.steps, spec.scale)
    if choice is None:
        return spec
    return chosen_by(choice if whole else replace(choice, logsnr=(), keep=(), recent=()), spec)


def chosen_by(choice: Choice, spec: SampleSpec) -> SampleSpec:
    """`spec` with the sampler and the path of a measured choice, and, where its guidance is plain, the levels to guide.

    A fitted sampler and levels of guidance are trusted for guidance scales near to the one that was measured.
    """
    near = abs(choice.scale - spec.scale) <= FITTED_WITHIN
    if near and spec.guidance == GuidanceSpec():
        spec = replace(spec, guidance=GuidanceSpec(lo=choice.lo, hi=choice.hi))
    if near and choice.steps == spec.steps and choice.logsnr:
        return replace(spec, sampler=MATCHED, options={}, spacing=MATCHED)
    return replace(spec, sampler=choice.sampler, options={}, spacing=choice.spacing)


def build_sampler(spec: SampleSpec, tuned: Tuned | None = None) -> Sampler:
    """The sampler with its options bound.

    Raises:
        ValueError: unknown sampler or option; the message lists the known.
    """
    if spec.sampler == MATCHED:
        return as_sampler(_needed(tuned, spec).fitted(spec.steps, spec.scale))
    options: dict[str, object] = dict(spec.options)
    if tuned is not None and options.get("variance") == "analytic":
        options["variance"] = tuned.variance
    return bind_options(spec.sampler, options)


def build_grid(spec: SampleSpec, schedule: Schedule, tuned: Tuned | None = None) -> TimeGrid:
    """Exactly `spec.steps` levels.

    Raises:
        ValueError: steps outside 1 to the schedule's T, or more than the longest tuned path has.
    """
    if spec.spacing == MATCHED:
        return _needed(tuned, spec).fitted(spec.steps, spec.scale).grid()
    if spec.spacing == "tuned" or spec.spacing == "tuned_ode":
        return _needed(tuned, spec).grid(schedule, spec.steps, spec.spacing)
    return spaced(schedule, spec.steps, spec.spacing)


def _needed(tuned: Tuned | None, spec: SampleSpec) -> Tuned:
    if tuned is None:
        raise ValueError(f"spacing: '{spec.spacing}' needs the tables of a model; choose another or load a model")
    return tuned
