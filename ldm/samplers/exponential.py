"""Exponential integrators: the part of the ODE that is known exactly leaves an integral of x0_hat against exp.

With lambda = logsnr / 2, h = lambda_s - lambda_t the length of a step and u in [0, 1] the place within it,

    x_s = sigma_s / sigma_t x_t + sqrt(alpha_bar_s) h integral_0^1 exp(-h (1 - u)) x0_hat(u) du

so a polynomial for x0_hat through known estimates gives a step of the order of their number.
"""

import math
from collections.abc import Sequence

import numpy as np

SERIES_BELOW, TERMS = 0.5, 20  # the recursion loses digits in short steps


def moments(x: float, count: int) -> list[float]:
    """x integral_0^1 exp(-x (1 - u)) u^k du for k = 0 .. count - 1; all 1 in the limit x = inf.

    Args:
        x: length of the step in units in which the exponential falls by e, positive.
        count: how many.
    """
    if x < SERIES_BELOW:  # integral u^k (1 - u)^j du = k! j! / (k + j + 1)!
        factor = [math.factorial(k) for k in range(count + TERMS + 1)]
        return [x * sum((-x) ** j * factor[k] / factor[k + j + 1] for j in range(TERMS)) for k in range(count)]
    found = [-math.expm1(-x)]
    for k in range(1, count):
        found.append(1 - k / x * found[-1])
    return found


def weights(x: float, nodes: Sequence[float]) -> list[float]:
    """Weights of estimates at `nodes` so that their sum is the integral of the polynomial through them, as `moments`.

    Their sum is 1 - exp(-x). With nodes 0, -r, ... these are exponential Adams-Bashforth steps (UniP of the same
    order), and with 1 besides, the place of arrival, Adams-Moulton ones (UniC).

    Source: Hochbruck and Ostermann 2010 (doi:10.1017/S0962492910000048) section 2.5; Zhao et al. 2023
    (arXiv:2302.04867) Eq. 3.

    Args:
        x: as for `moments`.
        nodes: where estimates are known, in units of the step, 0 its start and 1 its end; all different.
    """
    powers = np.array([[node**k for node in nodes] for k in range(len(nodes))])
    return np.linalg.solve(powers, np.array(moments(x, len(nodes)))).tolist()  # numbers of the path, not of a device
