"""The summary of a prepared data set as a table to print."""

from ldm.data.emoji.prepare import Summary
from ldm.data.emoji.split import SPLITS


def table(summary: Summary) -> str:
    """Pictures by style and split, concepts, and everything that was left out with its reason."""
    styles = list(summary.absent)
    columns = [*SPLITS, "total", "absent", "repeated"]
    lines = [" ".join(["style".ljust(12), *(name.rjust(16) for name in columns)])]
    for style in styles:
        counts = [summary.images[style, name] for name in SPLITS]
        cells = [*counts, sum(counts), summary.absent[style], summary.repeated[style]]
        lines.append(" ".join([style.ljust(12), *(str(cell).rjust(16) for cell in cells)]))
    totals = [sum(summary.images[style, name] for style in styles) for name in SPLITS]
    lines.append(" ".join(["all".ljust(12), *(str(cell).rjust(16) for cell in [*totals, sum(totals)])]))
    lines.append(f"concepts: {summary.concepts}")
    left_out = ", ".join(f"{count} {reason}" for reason, count in summary.dropped.most_common())
    lines.append(f"emoji left out: {left_out or 'none'}")
    lines.append(f"corrupt icons: {len(summary.corrupt)}")
    lines += [f"  {line}" for line in summary.corrupt]
    return "\n".join(lines)
