"""The mean of the reverse step in the three interpretations, with the coefficients that textbooks print."""

import torch

from ldm.process.conditionals import q_posterior, q_sample
from ldm.process.prediction import from_x0
from ldm.process.schedule import LinearBeta
from ldm.samplers import ancestral


def test_the_three_forms_of_the_reverse_mean_agree():
    """In x_0, in the noise and in the score, on every step of DDPM's table, with alpha_t = 1 - beta_t."""
    table, generator = LinearBeta(), torch.Generator().manual_seed(0)
    alpha = 1 - torch.tensor(table.beta_table(), dtype=torch.float64)
    bar = alpha.cumprod(0)
    levels = torch.tensor(table.nodes()[1:], dtype=torch.float64)
    s, t, bar_s, bar_t, alpha = levels[:-1], levels[1:], bar[:-1, None], bar[1:, None], alpha[1:, None]
    x0, eps, x0_hat = (torch.randn(len(s), 4, dtype=torch.float64, generator=generator) for _ in range(3))
    x_t = q_sample(x0, eps, t)
    noise, score = from_x0("eps", x0_hat, x_t, t), from_x0("score", x0_hat, x_t, t)
    mean = ancestral.step(x_t, x0_hat, t, s)
    by_x0 = (alpha.sqrt() * (1 - bar_s) * x_t + bar_s.sqrt() * (1 - alpha) * x0_hat) / (1 - bar_t)
    by_noise = (x_t - (1 - alpha) / (1 - bar_t).sqrt() * noise) / alpha.sqrt()
    by_score = (x_t + (1 - alpha) * score) / alpha.sqrt()
    for form in (by_x0, by_noise, by_score, q_posterior(x0_hat, x_t, s, t).mean):
        torch.testing.assert_close(mean, form, rtol=1e-10, atol=1e-10)
