"""What `scripts/finetune.py` does with its options: a recipe with the user's choices over it."""

import argparse
from pathlib import Path

from ldm.core.config_io import load

RECIPES = Path(__file__).resolve().parents[2] / "configs" / "finetune"


def run_from(options: argparse.Namespace, began: float) -> Path:
    """Fine-tune as the options say; returns the path of the result.

    Args:
        options: of the script.
        began: when it was started, by `time.monotonic`.

    Raises:
        ValueError: as `finetune` and `finetune_autoencoder`.
    """
    if options.stage == "autoencoder":
        from ldm.training.finetune_autoencoder import finetune_autoencoder

        why = dict.fromkeys(("token", "subject"), "the autoencoder reads no captions")
        why |= {"method": "the methods are ways to fine-tune stage 2, and the autoencoder has its own recipe"}
        for name, reason in why.items():
            if getattr(options, name) is not None:
                raise ValueError(f"--{name}: {reason}; leave it out")
        recipe = Path(options.config or RECIPES / "autoencoder.yaml")
        out = Path(options.out or "runs/finetune/autoencoder")
        return finetune_autoencoder(Path(options.model), options.data, recipe, options.set, out)
    from ldm.training.finetune import FinetuneConfig

    method = options.method or "lora"
    recipe = Path(options.config or RECIPES / f"{method}.yaml")
    given = {"model": options.model, "data.train": options.data, "token": options.token, "subject": options.subject}
    config = load(recipe, FinetuneConfig, options.set, {key: text for key, text in given.items() if text is not None})
    from ldm.training.finetune_fit import finetune

    return finetune(config, Path(options.out or f"runs/finetune/{method}"), began)
