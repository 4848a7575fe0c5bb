"""The demo's table and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PHASES = ("train", "encrypt", "upload", "wait", "download", "decrypt")
COLOURS = ("#4c78a8", "#f58518", "#e45756", "#bab0ac", "#72b7b2", "#54a24b")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return aligned columns, the first to the left, the rest to the right."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * w for w in widths], *rows]:
        cells = [row[0].ljust(widths[0])]
        cells += [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw accuracy, time and bytes of a report into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    rounds = range(1, report["rounds"] + 1)
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(13, 4.2), gridspec_kw={"width_ratios": [1.3, 1.3, 1]}
    )
    left.plot(
        rounds, report["accuracy_plaintext"], "o-", color="#bab0ac", lw=4, ms=8,
        label="plaintext",
    )  # fmt: skip
    left.plot(
        rounds, report["accuracy_encrypted"], "o-", color="#4c78a8", ms=4,
        label="encrypted",
    )  # fmt: skip
    left.set(xlabel="round", ylabel="test accuracy", title="Accuracy after each round")
    left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.legend(loc="lower right")
    left.set_xticks(list(rounds))
    bottom = [0.0] * report["rounds"]
    for phase, colour in zip(PHASES, COLOURS, strict=True):
        values = report["seconds_by_round"][phase]
        middle.bar(rounds, values, bottom=bottom, color=colour, label=phase)
        bottom = [b + v for b, v in zip(bottom, values, strict=True)]
    middle.set(
        xlabel="round", ylabel="seconds (mean over clients)", title="Time of a round"
    )
    middle.set_xticks(list(rounds))
    middle.set_ylim(0, max(bottom) * 1.35)
    middle.legend(ncol=3, fontsize=8, loc="upper center")
    bars = {
        "float32": 4.0,
        "up": report["wire_bytes_per_value_up"],
        "down": report["wire_bytes_per_value_down"],
    }
    drawn = right.bar(
        list(bars), list(bars.values()), color=["#bab0ac", "#4c78a8", "#72b7b2"]
    )
    right.bar_label(drawn, fmt="%.2f", padding=2)
    right.set(ylabel="bytes per value", title="On the wire, one client, one round")
    right.set_ylim(0, 1.15 * max(bars.values()))
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    figure.suptitle(
        f"{report['clients']} clients, {report['parameters']:,} parameters, "
        f"{report['mode']}, {report['preset']}, {report['bits']} bits",
        fontsize=11,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
