"""Run all stages of a distillation, each resumable, and write the student's model folder."""

from dataclasses import replace
from pathlib import Path

import lightning
from torch import Tensor

from ldm.build import Model, build_denoiser
from ldm.config import RunConfig
from ldm.core.bundle import BundleError, load_bundle, save_bundle
from ldm.core.checkpoints import LAST, steps_done
from ldm.core.config_io import to_dict
from ldm.core.one_run import DATA, INIT, MODEL, remember, same_run
from ldm.core.trainer import make_trainer, train
from ldm.model_folder import load_model, save_model, save_sibling, save_vocabulary
from ldm.training.datamodule import cached, listed, train_loader, training_latents, val_loader
from ldm.training.distill import GUIDANCE, TOGETHER, Distillation, DistillConfig, student_config
from ldm.training.samples import samples_of

STUDENT = "student.safetensors"  # what a finished stage leaves
KEPT = (f"*/{LAST}", f"*/{STUDENT}")  # what a distillation goes on from
# Of a run that goes on; not its length and rate, which the finished stages were learned with.
FREE = (
    *("precision", "validate_every", "save_every", "shared", "together", "scale"),
    *("data.val", "data.workers", "data.cache"),
)
NAMES = {GUIDANCE: "guidance", TOGETHER: "together"}  # folders of the stages without a number of steps


def distill(config: DistillConfig, out: Path) -> Path:
    """Train stage after stage, going on in `out` where a former call ended; returns the model folder.

    Args:
        config: the distillation.
        out: folder of one folder for each stage, and of the finished model (`out/model`).

    Raises:
        ValueError: the teacher, the data or a checkpoint cannot be used, `out` holds another run, or training
            produced NaN or infinity.
        KeyboardInterrupt: Ctrl-C; a checkpoint was written.
    """
    lightning.seed_everything(config.seed, verbose=False)
    teacher = load_model(config.teacher)
    student = student_config(teacher.config, config)
    started = _start(config, teacher)
    _, data = listed(replace(teacher, config=student), config.data.train)
    content = {DATA: data, MODEL: teacher.key} | ({INIT: started.key} if config.init else {})
    same_run(config, content, out, free=FREE, kept=KEPT)
    remember(config, content, out, kept=KEPT)
    weights = {name: tensor.clone() for name, tensor in started.denoise.net.state_dict().items()}
    for stage in config.stages:
        folder = out / NAMES.get(stage, f"steps-{stage}")
        if not (folder / STUDENT).is_file():
            _run(config, student, teacher, stage, weights, folder)
        weights = _student_of(folder / STUDENT, student)
    stored = {f"net.{name}": tensor for name, tensor in weights.items()} | teacher.unlearned()
    home = Path(config.teacher)
    if config.shared:
        save_sibling(out / "model", student, stored, home)
    else:
        save_model(out / "model", student, stored, home / teacher.config.codec.path)
    save_vocabulary(out / "model", teacher.vocabulary)
    return out / "model"


def _start(config: DistillConfig, teacher: Model) -> Model:
    """The model whose U-Net the first stage begins with."""
    started = load_model(config.init) if config.init else teacher
    if config.init and started.config.net != replace(teacher.config.net, distilled=config.scales):
        raise ValueError(f"init: {config.init} is not distilled from this teacher with scales {list(config.scales)}")
    return started


def _run(
    config: DistillConfig, student: RunConfig, teacher: Model, stage: int, weights: dict[str, Tensor], folder: Path
) -> None:
    model = _with(teacher, student, weights)
    former = teacher if stage in (GUIDANCE, TOGETHER) else _with(teacher, student, weights)
    module = Distillation(model, former, stage, config)
    fewest = {GUIDANCE: 2 * config.first, TOGETHER: config.last}.get(stage, stage)
    trainer = make_trainer(
        folder,
        steps=config.optim.steps,
        precision=config.precision,
        validate_every=config.validate_every,
        save_every=config.save_every,
        callbacks=samples_of(model, config.data.val, folder, fewest),
    )
    seen, held_out = (
        training_latents(model, config.data.train, config.data.views, limit=config.data.limit),
        cached(model, config.data.val, 1),
    )
    order = train_loader(seen, len(seen), config.data.batch, config.seed + stage, steps_done(folder))
    train(trainer, module, (order, val_loader(held_out)), folder)
    net = {name.removeprefix("net."): tensor for name, tensor in module.ema.weights().items()}
    save_bundle(folder / STUDENT, to_dict(student), net)


def _with(teacher: Model, config: RunConfig, weights: dict[str, Tensor]) -> Model:
    """A student with the teacher's surroundings; weights that the teacher does not have stay as they are made."""
    denoise = build_denoiser(config)
    missing, unknown = denoise.net.load_state_dict(weights, strict=False)
    if unknown or any(not name.startswith("distilled_embed.") for name in missing):
        raise ValueError(f"student: weights do not fit, e.g. {[*unknown, *missing][0]}; remove the folder of the stage")
    return replace(teacher, config=config, denoise=denoise, sha256="", folder=None)


def _student_of(path: Path, config: RunConfig) -> dict[str, Tensor]:
    bundle = load_bundle(path)
    if bundle.config["net"] != to_dict(config)["net"]:
        raise BundleError(f"{path}: a student of another configuration; give another --out, or remove it")
    return bundle.weights
