"""A patch discriminator: which patches of a picture look made."""

from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Strided convolutions to one score per patch (b, 1, h', w'); positive means real.

    Group norm rather than batch norm, so that a score does not depend on the other pictures of the batch.

    Source: Isola et al. 2017 (arXiv:1611.07004), section 3.2.2.

    Args:
        channels: width after the first layer; doubles at each further one.
        layers: strided layers; a patch is about 2 ** (layers + 2) pixels wide.
    """

    def __init__(self, channels: int = 32, layers: int = 3):
        super().__init__()
        steps: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for _ in range(layers - 1):
            steps += [
                nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
                nn.GroupNorm(8, 2 * channels),
                nn.LeakyReLU(0.2),
            ]
            channels *= 2
        self.net = nn.Sequential(*steps, nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the patches of pictures (b, 3, h, w)."""
        return self.net(x)
