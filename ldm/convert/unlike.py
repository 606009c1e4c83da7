"""What a file that is no Stable Diffusion 1 or 2 looks like."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ldm.core.bundle import FORMAT, BundleError

SUPPORTED = "read are whole checkpoints of Stable Diffusion 1.x and 2.x, inpainting ones too, and diffusers folders"

# (part of a tensor's name, what has it), the telling ones first.
SIGNS = (
    ("conditioner.embedders.1.", "Stable Diffusion XL"),
    ("conditioner.embedders.0.", "the refiner of Stable Diffusion XL"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("double_blocks.", "Flux"),
    ("double_stream", "a transformer model"),
    ("lora_unet_", "a LoRA adapter, which is loaded beside a checkpoint"),
    ("lora_te_", "a LoRA adapter, which is loaded beside a checkpoint"),
    ("lora_A", "a LoRA adapter, which is loaded beside a checkpoint"),
    (".lora", "a LoRA adapter, which is loaded beside a checkpoint"),
    ("hada_w1", "a LyCORIS adapter"),
    ("control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("string_to_param", "an embedding of textual inversion"),
    ("emb_params", "an embedding of textual inversion"),
    ("noise_augmentor.", "unCLIP"),
    ("first_stage_model.quantize.", "latent diffusion with a VQ autoencoder"),
    ("temporal", "a video model"),
    ("model.diffusion_model.label_emb.", "a model with class labels, such as the x4 upscaler"),
)
ALONE = (
    ("down_blocks.0.", "one network of a diffusers folder; give the folder"),
    ("input_blocks.0.", "a U-Net alone, without autoencoder and text encoder"),
    ("encoder.down.0.", "an autoencoder alone"),
    ("text_model.", "a text encoder alone"),
    ("transformer.resblocks.", "a text encoder alone"),
)


def refuse_unlike(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Do nothing for a file with the networks of a whole CompVis checkpoint.

    Raises:
        BundleError: it is another; the message says what it looks like, and what can be read.
    """
    if metadata.get("format") == FORMAT:
        raise BundleError(f"{path}: one file of a model folder of this project; give the folder {path.parent}")
    found = _sign(tensors, SIGNS)
    first = tensors.get("model.diffusion_model.input_blocks.0.0.weight")
    if found is None and first is not None and first.ndim == 4 and first.shape[1] not in (4, 9):
        depth = "depth-to-image" if first.shape[1] == 5 else "a model"
        found = f"{depth} with {first.shape[1]} channels of input instead of 4, or 9 for inpainting"
    if found is None and not any(name.startswith("model.diffusion_model.") for name in tensors):
        found = _sign(tensors, ALONE) or "no model known here"
    if found is not None:
        raise BundleError(f"{path}: this looks like {found}; {SUPPORTED}")


def _sign(names: Iterable[str], signs: Iterable[tuple[str, str]]) -> str | None:
    held = list(names)
    return next((what for part, what in signs if any(part in name for name in held)), None)
