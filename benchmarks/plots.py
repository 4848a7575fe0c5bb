"""Pictures of the results: speed by system, and bytes of a value."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from machine import Row
from table import DEFAULT, MAIN, PUBLIC, SHARED, WORK, find, groups, rate

matplotlib.use("agg")
import matplotlib.pyplot as plt

COLOURS = {
    "cryptflow": "#0b6e4f",
    "numpy": "#8d99ae",
    "tenseal": "#c8553d",
    "openfhe": "#e3a857",
    "numpy over TCP": "#8d99ae",
    "Flower FedAvg": "#e3a857",
    "NVIDIA FLARE HE": "#c8553d",
}
NAMES = {
    "cryptflow": "CryptFlow",
    "numpy": "numpy",
    "tenseal": "TenSEAL",
    "openfhe": "OpenFHE",
}
FIRST = (
    ("cryptflow", MAIN),
    ("cryptflow", "n8192-q204 sum-key b=16"),
    ("cryptflow", SHARED),
    ("tenseal", DEFAULT),
    ("tenseal", PUBLIC),
)

STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def chosen(rows: list[Row]) -> list[tuple[str, str]]:
    """Return the systems shown: ours, both of TenSEAL's sets, the others."""
    there = [(s, p) for s, p, t in groups(rows) if t == 1 and s in COLOURS]
    ours = [g for g in FIRST[:3] if g in there]
    return ours + [g for g in there if g[0] != "cryptflow"]


def label(system: str, parameters: str) -> str:
    """Name a system and its parameters on two lines."""
    return f"{NAMES[system]}\n{parameters}"


def bars(axis: plt.Axes, shown: list[tuple[str, float, str, str]]) -> None:
    """Draw horizontal bars with their numbers."""
    places = range(len(shown))[::-1]
    colours = [COLOURS[s] for _, _, s, _ in shown]
    axis.barh(places, [x for _, x, _, _ in shown], color=colours, height=0.7)
    axis.set_yticks(places, [name for name, _, _, _ in shown])
    axis.tick_params(axis="y", length=0)
    for place, (_, x, _, text) in zip(places, shown, strict=True):
        axis.annotate(
            text, (x, place), xytext=(3, 0), textcoords="offset points", va="center"
        )


def save(figure: plt.Figure, path: Path) -> None:
    """Write a picture that does not depend on when it was drawn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None}, bbox_inches="tight")
    plt.close(figure)


def speed(result: Row, path: Path) -> None:
    """Draw values a second of each system on one core, on a log scale."""
    rows = result["rows"]
    systems = chosen(rows)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 3, figsize=(11, 0.55 * len(systems) + 1.2), sharey=True
        )
        for axis, what in zip(axes, WORK, strict=True):
            shown = []
            for system, parameters in systems:
                row = find(rows, what, system, parameters)
                x = row["values_per_second"] / 1e6 if row else 0.0
                text = rate(row) if row else ""
                shown.append((label(system, parameters), x, system, text))
            axis.set_xscale("log")
            bars(axis, shown)
            axis.set_title(what, loc="left", fontweight="bold")
            axis.set_xlabel("million values a second (log)")
            top = max(x for _, x, _, _ in shown)
            axis.set_xlim(0.1, 8 * top)
            axis.grid(axis="x", alpha=0.25)
            axis.set_axisbelow(True)
        figure.suptitle(
            f"Speed on one core: {result['values']:,} values, "
            f"{result['clients']} clients, median of "
            f"{min(len(r['runs']) for r in rows)} runs or more",
            x=0.01,
            ha="left",
        )
        figure.tight_layout()
        save(figure, path)


def bytes_per_value(result: Row, path: Path) -> None:
    """Draw the bytes that one client sends for a value, on a log scale."""
    rows = result["rows"]
    shown = []
    for system, parameters in chosen(rows):
        row = find(rows, "encrypt", system, parameters) or find(
            rows, "fold", system, parameters
        )
        if row is not None:
            x = row["bytes_per_value"]
            shown.append((label(system, parameters), x, system, f"{x:.2f}"))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8, 0.5 * len(shown) + 1))
        axis.set_xscale("log")
        bars(axis, shown)
        axis.axvline(4, zorder=0, color="#444", linewidth=1, linestyle="--")
        axis.set_xlabel("bytes a value (log); the dashed line is plain float32")
        axis.set_title("What one client sends", loc="left", fontweight="bold")
        axis.set_xlim(1, 1.6 * max(x for _, x, _, _ in shown))
        save(figure, path)


def shares(result: Row, path: Path) -> None:
    """Draw where the time of each kind of work goes."""
    found = result["shares"]
    names = list(dict.fromkeys(n for w in WORK for n in found[w]))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(9, 2.6))
        colours = plt.get_cmap("tab20").colors
        for place, what in zip((2, 1, 0), WORK, strict=True):
            left = 0.0
            for i, name in enumerate(names):
                part = 100 * found[what].get(name, 0.0)
                colour = colours[i % len(colours)]
                axis.barh(place, part, left=left, color=colour, height=0.65)
                if part >= 4:
                    axis.text(
                        left + part / 2, place, f"{part:.0f}", ha="center", va="center"
                    )
                left += part
        handles = [
            plt.Rectangle((0, 0), 1, 1, color=colours[i % len(colours)])
            for i in range(len(names))
        ]
        axis.legend(
            handles, names, ncol=1, loc="center left", bbox_to_anchor=(1, 0.5),
            frameon=False,
        )  # fmt: skip
        axis.set_yticks((2, 1, 0), WORK)
        axis.tick_params(axis="y", length=0)
        axis.set_xlim(0, 100)
        axis.set_xlabel("% of the samples")
        axis.set_title(
            f"Where the time goes: {result['parameters']}, one core",
            loc="left",
            fontweight="bold",
        )
        save(figure, path)


def rounds(result: Row, path: Path) -> None:
    """Draw seconds of a round of four clients for each size, on a log scale.

    A peer that was measured with fewer clients only is there and says so.
    """
    flare = "NVIDIA FLARE HE"
    rows = [r for r in result["rows"] if r["clients"] == 4 or r["system"] == flare]
    sizes = sorted({r["values"] for r in rows})
    with plt.rc_context(STYLE):
        counts = [sum(r["values"] == n for r in rows) for n in sizes]
        figure, axes = plt.subplots(
            len(sizes),
            1,
            figsize=(9, 0.42 * sum(counts) + 0.7 * len(sizes)),
            height_ratios=counts,
            sharex=True,
            squeeze=False,
        )
        for axis, n in zip(axes[:, 0], sizes, strict=True):
            shown = []
            for r in (r for r in rows if r["values"] == n):
                more = r["parameters"].rpartition(", ")[2]
                if r["system"] == "Flower FedAvg":
                    more = r["parameters"].partition(", ")[2].partition(",")[0]
                    name = f"Flower FedAvg, {more}, plaintext"
                elif r["system"] == "cryptflow":
                    name = f"CryptFlow, ranges {more.removeprefix('ranges ')}"
                else:
                    name = r["system"]
                if r["clients"] != 4:
                    name += f", {r['clients']} clients"
                text = f"{r['seconds']:.3g} s"
                shown.append((name, r["seconds"], r["system"], text))
            axis.set_xscale("log")
            bars(axis, shown)
            axis.set_title(f"{n / 1e6:.2f} M values", loc="left", fontweight="bold")
        axes[-1, 0].set_xlabel(
            "seconds of a round of four clients, where no other number is said, "
            "logarithmic"
        )
        figure.tight_layout()
        save(figure, path)
