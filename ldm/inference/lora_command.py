"""What `scripts/lora.py` does: LoRAs into a model folder, or one LoRA in another layout."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ldm.convert.lora import write_lora
from ldm.inference.adapters import add_loras, read
from ldm.model_folder import load_model, save_model, save_vocabulary
from ldm.nets.lora import Lora


def merge_or_convert(model: Path, given: Sequence[str], to: str, out: Path) -> Path:
    """Write what is asked for; returns `out`.

    Args:
        model: folder of the model that the files were made for.
        given: FILE or FILE:SCALE.
        to: "model" merges all of them; another word is a layout of `write_lora`, in which the scale becomes alpha's.
        out: folder or file to write.

    Raises:
        ValueError: a file cannot be used, or several are to become one LoRA.
        OSError: `out` cannot be written.
    """
    base = load_model(model)
    if to == "model":
        base, _ = add_loras(base, given)
        kept = replace(base.config, storage="bfloat16")  # 8 bits would round away what was added
        save_model(out, kept, dict(base.stored().state_dict()), model / base.config.codec.path)
        save_vocabulary(out, base.vocabulary)
        return out
    if len(given) > 1:
        raise ValueError(f"--lora: {len(given)} files; one LoRA is written from one, or merge them with --to model")
    added = read(base, given[0])
    changes = {name: replace(change, alpha=change.alpha * added.scale) for name, change in added.lora.changes.items()}
    write_lora(out, Lora(changes, base.sha256, added.lora.words), to)  # type: ignore[arg-type]
    return out
