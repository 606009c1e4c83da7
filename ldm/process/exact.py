"""The reference denoiser: data from a Gaussian mixture, for which everything is known in closed form."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm.core.ranges import check_within
from ldm.core.shapes import Latent, LogSNR, PerImage, expand_like


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """Data x_0 drawn from sum_k w_k N(mu_k, diag(var_k)); a single component gives a plain Gaussian.

    Under the variance-preserving process x_t is again a mixture, with means sqrt(alpha_bar) mu_k and variances
    V_k = alpha_bar var_k + sigma^2, and given x_t and k the clean latent is Gaussian:

        E[x_0 | x_t, k]   = mu_k + sqrt(alpha_bar) var_k / V_k (x_t - sqrt(alpha_bar) mu_k)
        Var[x_0 | x_t, k] = var_k sigma^2 / V_k

    All methods are exact at both ends of the axis (logsnr = inf and -inf) and differentiable in x_t.

    Args:
        w: weights (k,), positive, summing to one.
        mu: means (k, *d).
        var: variances (k, *d), positive, or (k,) for isotropic components.

    Raises:
        ValueError: the three disagree in shape, the weights do not sum to one, or a variance is not positive.
    """

    w: PerImage
    mu: Latent
    var: Tensor

    def __post_init__(self) -> None:
        k = len(self.w)
        if self.mu.shape[0] != k or self.var.shape not in {(k,), self.mu.shape}:
            raise ValueError(f"w, mu, var: shapes {self.w.shape}, {self.mu.shape}, {self.var.shape} disagree on k or d")
        if abs(float(self.w.sum()) - 1) > 1e-6 or float(self.w.min()) <= 0:
            raise ValueError(f"w: {self.w.tolist()} are not positive weights that sum to 1; divide them by their sum")
        if not float(self.var.min()) > 0:
            raise ValueError(f"var: {float(self.var.min())} is not positive; give variances above 0")

    def sample(self, u: PerImage, z: Latent) -> Latent:
        """Draws of x_0 (b, *d) from uniforms `u` in [0, 1] (b,), which pick components, and normals `z` (b, *d).

        Raises:
            ValueError: a number of `u` is outside [0, 1] (looked at on the CPU only).
        """
        check_within("u", u, 0.0, 1.0, hint="uniforms pick the components")
        k = torch.searchsorted(self.w.cumsum(0), u, right=True).clamp(max=len(self.w) - 1)
        return self.mu[k] + self._var()[k].sqrt() * z

    def log_prob(self, x_t: Latent, logsnr: LogSNR) -> PerImage:
        """log q(x_t) at the level, natural log of a density over all of *d (b,)."""
        return torch.logsumexp(self._log_joint(x_t, logsnr), dim=1)

    def score(self, x_t: Latent, logsnr: LogSNR) -> Latent:
        """grad_x log q(x_t) (b, *d)."""
        responsibility, residual, total = self._given(x_t, logsnr)
        return -(responsibility * residual / total).sum(1)

    def denoise(self, x_t: Latent, logsnr: LogSNR) -> Latent:
        """E[x_0 | x_t] (b, *d), the best possible denoiser in mean squared error."""
        return (self._given(x_t, logsnr)[0] * self._component_means(x_t, logsnr)).sum(1)

    def variance(self, x_t: Latent, logsnr: LogSNR) -> Latent:
        """Var[x_0 | x_t] per element (b, *d), by the law of total variance."""
        responsibility, _, total = self._given(x_t, logsnr)
        within = self._var() * (-_per_component(logsnr, x_t)).sigmoid() / total
        means = self._component_means(x_t, logsnr)
        centre = (responsibility * means).sum(1, keepdim=True)
        return (responsibility * (within + (means - centre) ** 2)).sum(1)

    def _component_means(self, x_t: Latent, logsnr: LogSNR) -> Tensor:
        """E[x_0 | x_t, k] (b, k, *d)."""
        residual, total = self._moments(x_t, logsnr)
        amplitude = _per_component(logsnr, x_t).sigmoid().sqrt()
        return self.mu + amplitude * self._var() / total * residual

    def _given(self, x_t: Latent, logsnr: LogSNR) -> tuple[Tensor, Tensor, Tensor]:
        """P(k | x_t) (b, k, 1, ..., 1), x_t less each component's mean (b, k, *d), its variance V_k (b, k, *d)."""
        responsibility = self._log_joint(x_t, logsnr).softmax(1)
        residual, total = self._moments(x_t, logsnr)
        return responsibility.reshape(*responsibility.shape, *([1] * (x_t.ndim - 1))), residual, total

    def _log_joint(self, x_t: Latent, logsnr: LogSNR) -> Tensor:
        """log w_k + log N(x_t; component k at the level) (b, k)."""
        residual, total = self._moments(x_t, logsnr)
        terms = math.log(2 * math.pi) + total.log() + residual**2 / total
        return self.w.log() - 0.5 * terms.flatten(2).sum(2)

    def _moments(self, x_t: Latent, logsnr: LogSNR) -> tuple[Tensor, Tensor]:
        level = _per_component(logsnr, x_t)
        residual = x_t.unsqueeze(1) - level.sigmoid().sqrt() * self.mu
        return residual, level.sigmoid() * self._var() + (-level).sigmoid()

    def _var(self) -> Latent:
        """`var` in the shape of `mu` (k, *d)."""
        return self.var if self.var.shape == self.mu.shape else expand_like(self.var, self.mu).expand_as(self.mu)


def _per_component(logsnr: LogSNR, x_t: Latent) -> Tensor:
    """(b,) as (b, 1, 1, ..., 1): one more axis than `x_t`, for the components."""
    return logsnr.reshape(-1, *([1] * x_t.ndim))
