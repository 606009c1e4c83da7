"""What every test shares: fixed threads and seeds, repeatable hypothesis runs, long tests first."""

import os

import hypothesis
import jaxtyping
import pytest
import torch

hypothesis.settings.register_profile(
    "house",
    deadline=None,  # the first call of a test pays for torch's start
    derandomize=True,  # the same examples on every machine and in every process
    database=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("house")


def pytest_configure() -> None:
    """Share the cores between the test processes: more threads than cores make every test slower."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow tests first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _fixed_state():
    """Seed torch's global generator, and undo what a test changed in torch's global state."""
    dtype, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(grad)


@pytest.fixture
def without_shape_checks():
    """For `torch.compile`, which cannot trace the shape checks of a test run; users never have them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    torch._dynamo.reset()
