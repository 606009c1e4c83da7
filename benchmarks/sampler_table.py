"""What `benchmarks/samplers.py` found: a line for each sampler, printed, as CSV and as a plot."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

OURS = "ours"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table; figures of pictures are None where none were decoded."""

    scale: float
    steps: int
    name: str
    setting: str
    distance: float
    error: float
    lpips: float | None = None
    frechet: float | None = None
    top1: float | None = None


def show(result: Result, ours_distance: float) -> None:
    """One line; for a rival the ratio ours / theirs."""
    looks = (
        "" if result.lpips is None else f"  LPIPS {result.lpips:.4f}  FD {result.frechet:.1f}  top-1 {result.top1:.3f}"
    )
    ratio = "" if result.name == OURS else f"  ours/theirs {ours_distance / result.distance:.3f}"
    print(
        f"scale {result.scale:g}  N {result.steps:<3} {result.name:<24} {result.distance:.4f} +- {result.error:.4f}"
        f"{looks}{ratio}  {result.setting}",
        flush=True,
    )


def save_csv(results: Sequence[Result], path: Path) -> None:
    """All lines with all figures."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, [f.name for f in fields(Result)])
        table.writeheader()
        table.writerows(
            {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in asdict(result).items()} for result in results
        )


def save_plot(results: Sequence[Result], path: Path) -> None:
    """Distance against evaluations, one panel for each guidance scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    scales = sorted({r.scale for r in results})
    figure, axes = plt.subplots(1, len(scales), figsize=(5.5 * len(scales), 4.2), squeeze=False)
    for scale, axis in zip(scales, axes[0], strict=True):
        rows = [r for r in results if r.scale == scale and r.name != "reference"]
        for name in [OURS, *sorted({r.name for r in rows} - {OURS})]:
            points = sorted((r.steps, r.distance) for r in rows if r.name == name)
            style = (
                {"linewidth": 2.5, "color": "black", "zorder": 3} if name == OURS else {"linewidth": 1, "marker": "."}
            )
            axis.loglog(*zip(*points, strict=True), label=name, **style)
        axis.set(title=f"guidance scale {scale:g}", xlabel="evaluations", ylabel="RMS distance of latents to the flow")
        axis.grid(True, which="both", alpha=0.25)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
