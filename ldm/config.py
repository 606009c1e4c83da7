"""One stage-2 run as one value: the same that builds the model for training, fine-tuning and inference."""

from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from ldm.core.distributed import TrainerSpec
from ldm.core.limits import above, at_least, run_lengths, share
from ldm.core.optim import OptimSpec
from ldm.core.precision import AUTO, Precision
from ldm.data.variety import Flip
from ldm.guidance.spec import GuidanceSpec
from ldm.nets.guess import GuessSpec
from ldm.nets.low import LowSpec
from ldm.nets.text import ClipSpec, SentenceSpec
from ldm.nets.unet import UNetSpec
from ldm.process.grid import Spacing, TunedSpacing
from ldm.process.piecewise import PiecewiseLogSNR
from ldm.process.prediction import EDM as EDMScaling
from ldm.process.prediction import VP, Kind
from ldm.process.schedule import Cosine, LinearBeta, LinearLogSNR, ScaledLinearBeta, Sigmoid, Tabulated
from ldm.process.times import LogNormal, LowDiscrepancy, Uniform
from ldm.process.weights import EDM, Elbo, MinSNR, SigmoidWeight, SimpleEps, SimpleV, SoftMinSNR
from ldm.process.zero_terminal import ZeroTerminal
from ldm.samplers import options_of

ScheduleSpec = (
    Cosine | Sigmoid | LinearLogSNR | LinearBeta | ScaledLinearBeta | Tabulated | ZeroTerminal | PiecewiseLogSNR
)
MATCHED: Final = "matched"  # sampler, and spacing, that were fitted to a model
WeightSpec = MinSNR | SoftMinSNR | SimpleEps | SimpleV | Elbo | EDM | SigmoidWeight
TimesSpec = LowDiscrepancy | Uniform | LogNormal
TextSpec = SentenceSpec | ClipSpec
Encode = Literal["auto", "ahead", "along"]  # when the cache of latents is filled


@dataclass(frozen=True, kw_only=True)
class CodecSpec:
    """Which autoencoder the latents belong to.

    Attributes:
        path: bundle of stage 1; "" for diffusion in pixel space.
        scale: one factor for all latents instead of the measured moments, e.g. Stable Diffusion's 0.18215.
    """

    path: str = "runs/autoencoder/autoencoder.safetensors"
    scale: float | None = None

    def __post_init__(self) -> None:
        above(0, scale=self.scale)


@dataclass(frozen=True, kw_only=True)
class PredictionSpec:
    """What the network predicts and how its input and output are scaled.

    Attributes:
        kind: noise, clean latent, score or v.
        scaling: coefficients around the network.
        learned_variance: whether it also says the variance of the reverse step, with as many channels again
            (`net.out_channels`); trained with `hybrid_loss`, drawn with `variance=learned` of the ancestral sampler.
    """

    kind: Kind = "v"
    scaling: VP | EDMScaling = field(default_factory=VP)
    learned_variance: bool = False


@dataclass(frozen=True, kw_only=True)
class SampleSpec:
    """How pictures are drawn where the user does not say.

    Attributes:
        sampler: a name of `ldm.samplers.SAMPLERS`, or "matched" for the one that was fitted to the model.
        options: its options; "analytic" for `variance` stands for the table measured with the model.
        steps: network evaluations along the path.
        spacing: how the levels are spread; "tuned" and "tuned_ode" are the best paths of that length
            measured with the model, for the bound and for ODE samplers, "matched" is that of the fitted sampler.
        scale: classifier-free guidance, the lecture's gamma; 1 is the plain conditional model.
        guidance: the rule of guidance, and the levels at which it is used.
        size: side of the picture, pixels.
        style: how to draw what a prompt only names, for a model that has learned several ways: words that are added,
            after a comma, to a prompt without one; "": none.

    Raises:
        ValueError: a number out of range, a sampler that there is not, or the fitted sampler without its levels, or
            these without it.
    """

    sampler: str = "dpm_solver"
    options: dict[str, float | str | bool] = field(default_factory=dict)
    steps: int = 20
    spacing: Spacing | TunedSpacing = "trailing"
    scale: float = 3.0
    guidance: GuidanceSpec = field(default_factory=GuidanceSpec)
    size: int = 128
    style: str = ""

    def __post_init__(self) -> None:
        at_least(1, size=self.size)
        if self.sampler != MATCHED:
            options_of(self.sampler)  # refuses a name that is none
        if (self.sampler == MATCHED) != (self.spacing == MATCHED):
            raise ValueError("sampler, spacing: 'matched' is a sampler with its own levels; give it for both")
        if self.sampler == MATCHED and self.options:
            raise ValueError(f"options: {', '.join(self.options)}, but the sampler 'matched' has none")

    @property
    def needs_tables(self) -> bool:
        """Whether what `scripts/tune_sampler.py` stores beside a model is used."""
        tuned = self.spacing in get_args(TunedSpacing) or self.sampler == MATCHED
        return tuned or self.options.get("variance") == "analytic"


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Pictures and captions for stage 2.

    Attributes:
        train: folder of training pictures.
        val: folder of held-out pictures, for the validation loss.
        size: side of the squares, pixels.
        batch: pictures per step, of all processes together.
        latents: "sample" learns fresh draws from the posterior of stage 1, "mean" its means. Where the posterior is
            wide, its noise is most of what a denoiser of draws gets wrong, and nothing that a decoder needs; the
            likelihood of pictures, though, is a matter of draws.
        views: how many (caption, background) views of a picture the cache holds.
        buckets: whether pictures keep their shape, in batches of one shape each, rather than being cut to squares.
        flip: whether half of the views are mirrored: "never", "swap" (captions then say "right" for "left"), or
            "unless_named" (but those whose caption names a side).
        shuffle_tags: whether the parts of a caption between commas, but for the first, change their order.
        limit: at most so many training pictures, spread evenly over the folder; null: all.
        drop_caption: share of captions replaced by the empty one, for classifier-free guidance.
        cache: folder of cached latents and text states; all processes of a run must see the same one.
        encode: when the cache is filled: "ahead" of the first step; "along", as the first epoch comes to the pictures;
            "auto": ahead where there are few, or a guess is trained on all of them, else along.
        workers: processes that load them. 0: the training process itself.
    """

    train: str = "data/emoji/train"
    val: str = "data/emoji/heldout_cells"
    size: int = 128
    batch: int = 32
    latents: Literal["sample", "mean"] = "sample"
    views: int = 4
    buckets: bool = False
    flip: Flip = "never"
    shuffle_tags: bool = False
    limit: int | None = None
    drop_caption: float = 0.1
    cache: str = "runs/cache"
    encode: Encode = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        at_least(1, size=self.size, batch=self.batch, views=self.views, limit=self.limit)
        at_least(0, workers=self.workers)
        share(drop_caption=self.drop_caption)
        if self.views == 1 and (self.flip != "never" or self.shuffle_tags):
            raise ValueError("flip, shuffle_tags: they differ between the views of a picture; set views to 2 or more")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a stage-2 run; saved, resolved, with its weights.

    Attributes:
        codec: the autoencoder.
        schedule: level as a function of time; net, loss, sampler and likelihood all use this one.
        net: shape of the U-Net.
        text: the text encoder.
        guess: a network that guesses the latent from the phrases of a caption, for the U-Net to read; null: none.
        low: makes it an upscaler, whose U-Net reads a small picture and draws what it lacks; null: none.
        prediction: what the network predicts.
        loss: weight of the levels.
        times: how training levels are drawn.
        sample: defaults of drawing.
        data: pictures and captions.
        optim: optimiser, learning rate and length.
        trainer: how the processes work together where there are several.
        precision: Lightning's name; "auto": bfloat16 where the machine is faster in it.
        storage: how the weights of a finished model are kept: "int8" has half the size of "bfloat16", with a step for
            each row of a matrix; see `ldm.core.int8`.
        compile: the U-Net for the steps of training, where there is a compiler: a ninth less time a step on 2 cores,
            after minutes at every start.
        validate_every: steps between validations.
        save_every: steps between checkpoints.
        keep: how many checkpoints stay.
        logger: "tensorboard", or "wandb" for Weights & Biases as well.
        seed: of initial weights, order of the data and noise.
    """

    codec: CodecSpec = field(default_factory=CodecSpec)
    schedule: ScheduleSpec = field(default_factory=Cosine)
    net: UNetSpec = field(default_factory=UNetSpec)
    text: TextSpec = field(default_factory=SentenceSpec)
    guess: GuessSpec | None = None
    low: LowSpec | None = None
    prediction: PredictionSpec = field(default_factory=PredictionSpec)
    loss: WeightSpec = field(default_factory=lambda: MinSNR(gamma=5.0))
    times: TimesSpec = field(default_factory=LowDiscrepancy)
    sample: SampleSpec = field(default_factory=SampleSpec)
    data: DataSpec = field(default_factory=DataSpec)
    optim: OptimSpec = field(default_factory=OptimSpec)
    trainer: TrainerSpec = field(default_factory=TrainerSpec)
    precision: Precision = AUTO
    storage: Literal["bfloat16", "int8"] = "bfloat16"
    compile: bool = False
    validate_every: int = 1000
    save_every: int = 200
    keep: int = 2
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    seed: int = 0

    def __post_init__(self) -> None:
        run_lengths(self)
        at_least(1, **{"sample.steps": self.sample.steps})  # here, for a request has its own words for it
        at_least(0, **{"sample.scale": self.sample.scale})
        if self.low is not None:
            self._check_low(self.low)
        if self.guess is not None and self.net.cond_channels != self.guess.shape[0]:
            raise ValueError(
                f"net.cond_channels: {self.net.cond_channels}, but the guess has {self.guess.shape[0]} channels for the"
                " U-Net to read; set it to that"
            )
        learned = self.prediction.learned_variance
        wanted = self.net.in_channels * (2 if learned else 1)
        if self.net.out_channels != wanted:
            raise ValueError(
                f"net.out_channels: {self.net.out_channels}, but {self.net.in_channels} channels "
                f"{'and their variances' if learned else 'without a learned variance'} need {wanted}"
            )
        if learned and (isinstance(self.times, LogNormal) or isinstance(self.schedule, ZeroTerminal)):
            raise ValueError(
                "prediction.learned_variance: its bound needs times drawn evenly and a schedule that ends above pure "
                "noise; set times to low_discrepancy and the schedule to one that is not zero_terminal"
            )
        if self.prediction.kind in ("eps", "score") and isinstance(self.schedule, ZeroTerminal):
            raise ValueError(
                f"prediction.kind: '{self.prediction.kind}' says nothing where the schedule ends in pure noise "
                f"(zero_terminal); use 'v' or 'x0'"
            )

    def _check_low(self, low: LowSpec) -> None:
        wanted = self.net.in_channels + 1
        if self.guess is not None:
            raise ValueError("guess, low: the U-Net reads one of them beside its input; set the other to null")
        if self.net.cond_channels != wanted:
            raise ValueError(
                f"net.cond_channels: {self.net.cond_channels}, but an upscaler reads {wanted}: the latent of the small "
                "picture and its noise level; set it to that"
            )
        if any(side % f for side in (self.data.size, self.sample.size) for f in (*low.factors, *low.redrawn)):
            raise ValueError(
                f"low: factors {low.factors}, redrawn {low.redrawn}; each must divide data.size {self.data.size} and "
                f"sample.size {self.sample.size}"
            )
