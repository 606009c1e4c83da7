"""Fine-tune a finished model on a folder of pictures: what is learned, from which words, and what is kept."""

from dataclasses import dataclass, field, replace
from typing import Literal

from ldm.build import Model
from ldm.config import DataSpec, Encode, RunConfig
from ldm.core.distributed import TrainerSpec
from ldm.core.limits import at_least, run_lengths, share
from ldm.core.optim import OptimSpec
from ldm.core.precision import AUTO, Precision
from ldm.data.variety import Flip
from ldm.nets.prompt import as_written
from ldm.training.lora import LoraSpec
from ldm.training.prior import PriorSpec
from ldm.training.textual_inversion import WordSpec
from ldm.training.wording import Wording

EVERYDAY = ("an apple", "a house", "a cat", "a car")  # drawn where no prompts are given


@dataclass(frozen=True, kw_only=True)
class FullSpec:
    """All weights of the U-Net are learned; the result is a model folder."""

    kind: Literal["full"] = "full"


LearnSpec = FullSpec | LoraSpec | WordSpec


@dataclass(frozen=True, kw_only=True)
class FinetuneData:
    """The pictures.

    Attributes:
        train: folder.
        val: folder of held-out pictures for the validation loss; null: the training pictures, with fixed noise.
        caption: template of the captions, see `Wording`; without {caption} the pictures need none of their own.
        batch: pictures per step, with those of the prior.
        views: of each picture, as in `DataSpec`.
        buckets: whether pictures keep their shape, as in `DataSpec`; not with a prior, whose pictures are squares.
        flip: whether half of the views are mirrored, as in `DataSpec`.
        shuffle_tags: whether the parts of a caption change their order, as in `DataSpec`; {token} stays in its place.
        drop_caption: share of captions replaced by the empty one; where there is a prior, of its captions only.
        cache: folder of cached latents and text states.
        encode: when it is filled, as in `DataSpec`.
        workers: processes that load the batches, as in `DataSpec`.
    """

    train: str = ""
    val: str | None = None
    caption: str = "{caption}, {token}"
    batch: int = 16
    views: int = 1
    buckets: bool = False
    flip: Flip = "never"
    shuffle_tags: bool = False
    drop_caption: float = 0.1
    cache: str = "runs/cache"
    encode: Encode = "auto"
    workers: int = 0

    def __post_init__(self) -> None:
        at_least(1, batch=self.batch, views=self.views)
        at_least(0, workers=self.workers)
        share(drop_caption=self.drop_caption)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Everything that decides a fine-tuning; saved, resolved, beside its result.

    Attributes:
        model: folder of the model that it starts from.
        data: the pictures.
        learn: which numbers are learned: all weights, low-rank changes of them, or the embedding of a word.
        token: word for what is new, which prompts name to have it; "": there is none, and the change always shows.
        subject: what kind of thing the pictures show, for captions.
        prior: what the model keeps where a prompt does not name the token; null, or no token: nothing in particular.
        prompts: drawn before, during and after, templates as `data.caption`; none: captions of the data, and everyday
            things in the words of the captions.
        optim: optimiser, learning rate and length.
        trainer: how the processes work together where there are several.
        precision: as in `RunConfig`.
        compile: as in `RunConfig`.
        validate_every: steps between validations, at which the prompts are drawn.
        save_every: steps between checkpoints.
        keep: how many checkpoints stay.
        logger: "tensorboard", or "wandb" for Weights & Biases as well.
        seed: of the adapters' start, order of the data and noise.
    """

    model: str = "models/emoji"
    data: FinetuneData = field(default_factory=FinetuneData)
    learn: LearnSpec = field(default_factory=LoraSpec)
    token: str = ""
    subject: str = "thing"
    prior: PriorSpec | None = None
    prompts: tuple[str, ...] = ()
    optim: OptimSpec = field(default_factory=OptimSpec)
    trainer: TrainerSpec = field(default_factory=TrainerSpec)
    precision: Precision = AUTO
    compile: bool = False
    validate_every: int = 200
    save_every: int = 100
    keep: int = 2
    logger: Literal["tensorboard", "wandb"] = "tensorboard"
    seed: int = 0

    def __post_init__(self) -> None:
        run_lengths(self)
        if self.data.batch < (2 if self.kept else 1):
            raise ValueError(f"data.batch: {self.data.batch}; at least 1 picture, and one more for the prior")
        if isinstance(self.learn, WordSpec) and not self.token:
            raise ValueError('token: textual inversion learns a word, and none is given; e.g. --token "<my-cat>"')
        if isinstance(self.learn, WordSpec) and self.prior is not None:
            raise ValueError("prior: textual inversion leaves the model as it is; set prior to null")
        if self.data.buckets and self.kept is not None:
            raise ValueError("data.buckets: the prior's pictures are squares; set it to false, or prior to null")
        self.wording  # noqa: B018 (refuses a template that is none)

    @property
    def wording(self) -> Wording:
        """How captions are worded."""
        return Wording(template=self.data.caption, token=self.token, subject=self.subject)

    @property
    def kept(self) -> PriorSpec | None:
        """The prior, where there is a token that tells new from old."""
        return self.prior if self.token else None

    def prompts_for(self, captions: list[str]) -> tuple[str, ...]:
        """What is drawn to watch the training, given the pictures' own captions."""
        if self.prompts:
            said = [replace(self.wording, template=prompt) for prompt in self.prompts]
            return tuple(word("") for word in said)
        apart = captions[:: max(len(captions) // 4, 1)][:4]
        return tuple(self.wording(as_written(caption)) for caption in (*apart, *EVERYDAY))


def run_config(config: FinetuneConfig, model: Model) -> RunConfig:
    """The model's configuration with the data and optimiser of the fine-tuning.

    Raises:
        ValueError: the model is a distilled one.
    """
    if model.config.net.distilled is not None:
        raise ValueError(f"--model: {config.model} is distilled; fine-tune its teacher, and distil the result")
    data = DataSpec(
        train=config.data.train,
        val=config.data.val or config.data.train,
        size=model.config.data.size,
        batch=config.data.batch,
        latents=model.config.data.latents,
        views=config.data.views,
        buckets=config.data.buckets,
        flip=config.data.flip,
        shuffle_tags=config.data.shuffle_tags,
        drop_caption=config.data.drop_caption,
        cache=config.data.cache,
        encode=config.data.encode,
        workers=config.data.workers,
    )
    return replace(
        model.config,
        data=data,
        sample=replace(model.config.sample, style=""),  # what it learns now has a style of its own
        optim=config.optim,
        trainer=config.trainer,
        precision=config.precision,
        compile=config.compile,
        validate_every=config.validate_every,
        save_every=config.save_every,
        seed=config.seed,
    )
