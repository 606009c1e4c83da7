"""A model taken apart, under our names and in the precision of its file: what every layout is read into."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from autoencoder.model import Autoencoder, AutoencoderSpec
from ldm.config import RunConfig
from ldm.core.blank import blank
from ldm.core.bundle import BundleError
from ldm.nets.clip import ClipEncoder, ClipSpec
from ldm.nets.unet import UNet, UNetSpec

Spec = UNetSpec | AutoencoderSpec | ClipSpec
Names = Mapping[str, Sequence[str]]  # our tensor: theirs, whose rows stand one below the other
SHOWN = 3  # names in a message
_KIND = {UNetSpec: "U-Net", AutoencoderSpec: "autoencoder", ClipSpec: "text encoder"}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A model of Stable Diffusion's kind: U-Net, KL autoencoder and CLIP text tower.

    Attributes:
        config: of the model; its `text` is a `ClipSpec`.
        autoencoder: shape of the autoencoder.
        net: tensors of `UNet(config.net)`.
        codec: tensors of `Autoencoder(autoencoder)`.
        text: tensors of `ClipEncoder(config.text)`.
    """

    config: RunConfig
    autoencoder: AutoencoderSpec
    net: Mapping[str, Tensor]
    codec: Mapping[str, Tensor]
    text: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """All of them, each under the name of its network."""
        parts = {"net": self.net, "codec": self.codec, "text": self.text}
        return {f"{part}.{name}": tensor for part, held in parts.items() for name, tensor in held.items()}


def shapes(spec: Spec, where: str | Path = "spec") -> dict[str, torch.Size]:
    """Names and shapes of the tensors of a network, without its weights.

    Raises:
        BundleError: there is no such network; `where`, the file that the spec was read from, begins the message.
    """
    try:
        with torch.device("meta"), blank():
            net: nn.Module
            match spec:
                case UNetSpec():
                    net = UNet(spec)
                case AutoencoderSpec():
                    net = Autoencoder(spec)
                case ClipSpec():
                    net = ClipEncoder(spec)
    except (ValueError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise BundleError(f"{where}: tensors of these shapes make no {_KIND[type(spec)]} ({error})") from error
    return {name: tensor.shape for name, tensor in net.state_dict().items()}


def collect(
    theirs: Mapping[str, Tensor], names: Names, wanted: Mapping[str, torch.Size], where: str | Path
) -> dict[str, Tensor]:
    """Our tensors from theirs, in their precision.

    Args:
        theirs: tensors under the names of their layout.
        names: for each of ours the names of theirs.
        wanted: shapes of ours. A 1x1 convolution and a linear layer stand for each other.
        where: the file, for messages.

    Raises:
        BundleError: tensors are missing or unknown, of another shape, or not of floating point.
    """
    _check_names(theirs, [name for group in names.values() for name in group], where)
    ours = {}
    for name, group in names.items():
        pieces = [theirs[piece] for piece in group]
        if not all(piece.is_floating_point() for piece in pieces):
            raise BundleError(f"{where}: {group[0]} is of {pieces[0].dtype}; weights of floating point can be read")
        try:
            joined = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            ours[name] = reshaped(joined, wanted[name])
        except (ValueError, RuntimeError) as error:
            found = " + ".join(str(tuple(piece.shape)) for piece in pieces)
            raise BundleError(f"{where}: {group[0]} is {found}, but {tuple(wanted[name])} is needed") from error
    return ours


def spread(ours: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """The inverse of `collect`, but for the reshaping."""
    theirs: dict[str, Tensor] = {}
    for name, group in names.items():
        theirs |= dict(zip(group, ours[name].chunk(len(group)), strict=True))
    return theirs


def reshaped(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """`tensor` with axes of length 1 added or taken off at its end.

    Raises:
        ValueError: that does not give `shape`.
    """
    shorter, longer = sorted((tuple(tensor.shape), tuple(shape)), key=len)
    if longer != shorter + (1,) * (len(longer) - len(shorter)):
        raise ValueError(f"{tuple(tensor.shape)} is not {tuple(shape)}")
    return tensor.reshape(tuple(shape))


def _check_names(found: Iterable[str], wanted: Iterable[str], where: str | Path) -> None:
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if not missing and not unknown:
        return
    problems = [
        f"{len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} {what}: {_listed(names, others)}"
        for names, what, others in ((missing, "missing", unknown), (unknown, "unknown", missing or list(wanted)))
        if names
    ]
    raise BundleError(f"{where}: {'; '.join(problems)}")


def _listed(names: Sequence[str], others: Sequence[str]) -> str:
    shown = []
    for name in names[:SHOWN]:
        near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        shown.append(f"{name} (near: {near[0]})" if near else name)
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
