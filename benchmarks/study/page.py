"""The study's page and plots, from its results alone.

python benchmarks/study/page.py    # docs/study.md, docs/study/*.png

Results from before there were several kinds of split have the first alone.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scipy import stats

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "study.json"
PAGE, PICTURES = ROOT / "docs" / "study.md", ROOT / "docs" / "study"

Row = dict[str, Any]

#: Colours of Okabe and Ito, which colour-blind readers tell apart.
STYLES = {
    ("sum-key", "lanes"): ("#0072B2", "o", "sum-key, lanes"),
    ("shared-key", "lanes"): ("#D55E00", "s", "shared-key, lanes"),
    ("sum-key", "slots"): ("#56B4E9", "^", "sum-key, slots"),
    ("shared-key", "slots"): ("#E69F00", "v", "shared-key, slots"),
    ("sum-key", "slots-ci"): ("#009E73", "D", "sum-key, slots-ci"),
    ("shared-key", "slots-ci"): ("#CC79A7", "P", "shared-key, slots-ci"),
}
#: Where a peer's name stands beside its star.
PLACES = {
    "TenSEAL, NVIDIA FLARE": ((6, 10), "right"),
    "TenSEAL small": ((6, -17), "right"),
    "Flower SecAgg+": ((0, 24), "center"),
}
#: Of each kind of split: name, and the colour and marker of its curves.
SPLITS = {
    "dirichlet": ("labels by Dirichlet", "#0072B2", "o"),
    "labels": ("few labels a client", "#D55E00", "s"),
    "sizes": ("uneven sizes", "#009E73", "D"),
}
#: Of each preset: the gate's limit for log2 q, and what the Lattice Estimator
#: said at width 4.53/√2, classical and quantum, when the presets were chosen.
ESTIMATES = {
    "n2048-q52": (55, 137, 129),
    "n4096-q102": (108, 137, 129),
    "n8192-q204": (216, 136, 129),
}


def level(preset: str) -> str:
    """Return the gate's level and both estimates of a preset, in bits."""
    _, classical, quantum = ESTIMATES[preset]
    return f"128 ({classical} / {quantum})"


def interval(x: list[float]) -> tuple[float, float]:
    """Return mean and half of the 95 % confidence interval."""
    n = len(x)
    t = float(stats.t.ppf(0.975, n - 1))
    return float(np.mean(x)), t * float(np.std(x, ddof=1)) / math.sqrt(n)


class Study:
    """Results, and what follows from them."""

    def __init__(self, raw: Row) -> None:
        self.raw = raw
        self.problems = raw["setting"]["problems"]
        self.splits = raw["setting"].setdefault("splits", ["dirichlet"])
        for r in raw["accuracy"]:
            r.setdefault("split", self.splits[0])
        self.cohorts = raw["setting"]["cohorts"]
        self.middle = self.cohorts[len(self.cohorts) // 2]
        self.weights = next(
            (r["system"] for r in raw["accuracy"] if r["kind"] == "weights"), ""
        )
        self.cost = {r["system"]: r for r in raw["cost"]}

    def rows(self, problem: str, clients: int, split: str = "") -> list[Row]:
        """Return the trained points of one federation; of the first split if none."""
        same = (problem, clients, split or self.splits[0])
        return [
            r
            for r in self.raw["accuracy"]
            if (r["problem"], r["clients"], r["split"]) == same
        ]

    def by_bits(self, problem: str, clients: int, split: str) -> dict[int, Any]:
        """Return mean and interval of sum-key lanes, by bits."""
        return {
            r["bits"]: interval(r["difference"])
            for r in self.rows(problem, clients, split)
            if (r.get("mode"), r.get("encoding")) == ("sum-key", "lanes")
            and r["rounding"] == "stochastic"
        }

    def best(self, r: Row) -> Row | None:
        """Return the cheapest preset's cost for a trained point of ours."""
        same = [
            c
            for c in self.raw["cost"]
            if all(c.get(k) == r.get(k) for k in ("mode", "encoding", "bits"))
            and c.get("kind") == "cryptflow"
        ]
        return min(same, key=lambda c: c["bytes_per_value"], default=None)

    def loss(self, **wanted: Any) -> tuple[float, float]:
        """Return accuracy lost against float64 over all problems and seeds."""
        x = [
            d
            for r in self.raw["accuracy"]
            if all(r.get(k) == v for k, v in wanted.items())
            for d in r["difference"]
        ]
        return interval(x) if len(x) > 1 else (math.nan, math.nan)

    def rounding(self, mode: str, bits: int, split: str) -> tuple[float, float]:
        """Return accuracy lost against float64 with the same weights.

        The rounding of shared-key's weights is no matter of bits.
        """
        x = []
        for r in self.raw["accuracy"]:
            if (r.get("mode"), r.get("encoding"), r.get("bits")) != (
                mode,
                "lanes",
                bits,
            ):
                continue
            if r["rounding"] != "stochastic" or r["split"] != split:
                continue
            base = [0.0] * len(r["difference"])
            for w in self.rows(r["problem"], r["clients"], split):
                if w["kind"] == "weights" and mode == "shared-key":
                    base = w["difference"]
            x += [d - b for d, b in zip(r["difference"], base, strict=True)]
        return interval(x)

    def enough(self) -> int:
        """Return the fewest bits that lose nothing that this study can see.

        In both modes and with every kind of split the 95 % interval of the
        paired difference from float64 with the same weights, over all
        federations and seeds, stays above −0.05 percentage points.
        """
        for bits in sorted(self.raw["setting"]["bits"]):
            found = [
                self.rounding(mode, bits, split)
                for mode in ("sum-key", "shared-key")
                for split in self.splits
            ]
            if all(mean - half > -0.0005 for mean, half in found):
                return int(bits)
        return int(max(self.raw["setting"]["bits"]))


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in cost and accuracy."""
    out: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (p[0], -p[1])):
        if not out or y > out[-1][1]:
            out.append((x, y))
    return out


def scatter(s: Study, axes: Axes, problem: str, quantity: str) -> None:
    """Draw accuracy, less that of float64, against one cost, and our front."""
    points = []
    drawn = set()
    for r in s.rows(problem, s.middle):
        y = 100 * interval(r["difference"])[0]
        if r["kind"] == "cryptflow":
            cost = s.best(r)
            if r["rounding"] != "stochastic" or cost is None:
                continue
            if (r["mode"], r["encoding"], r["bits"]) in drawn:
                continue  # trained with another preset too: the same mean
            drawn.add((r["mode"], r["encoding"], r["bits"]))
            colour, marker, _ = STYLES[r["mode"], r["encoding"]]
            x = cost[quantity]
            points.append((x, y))
            axes.plot(x, y, marker, color=colour, ms=7, mec="white", mew=0.6)
            ours = (r["mode"], r["encoding"]) == ("sum-key", "lanes")
            if ours and quantity == "bytes_per_value":
                axes.annotate(
                    str(r["bits"]), (x, y), xytext=(0, 8), textcoords="offset points",
                    ha="center", fontsize=8, color=colour,
                )  # fmt: skip
            continue
        if r["kind"] == "weights":
            continue
        x = s.cost[r["system"]].get(quantity)
        if r["kind"] == "plain":
            axes.axhline(0, color="0.5", lw=1, zorder=0)
            if quantity == "bytes_per_value":
                axes.axvline(x, color="0.5", lw=1, ls=":", zorder=0)
        elif x:
            axes.plot(x, y, "*", color="black", ms=11)
            name = r["system"].split(" N=")[0].split(" default")[0]
            at, side = PLACES[name]
            axes.annotate(
                name, (x, y), xytext=at, textcoords="offset points", fontsize=8,
                ha=side, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.5},
            )  # fmt: skip
    line = front(points)
    axes.step(
        [p[0] for p in line] + [max(p[0] for p in points)],
        [p[1] for p in line] + [line[-1][1]],
        where="post", color="#0072B2", lw=1, alpha=0.6, zorder=1,
    )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(y=0.25)
    axes.grid(True, which="both", color="0.94", zorder=0)
    axes.set_title(problem)


def pareto(s: Study) -> None:
    """Draw accuracy against bytes and against seconds."""
    fig, grid = plt.subplots(2, len(s.problems), figsize=(11, 9), squeeze=False)
    for column, problem in enumerate(s.problems):
        scatter(s, grid[0][column], problem, "bytes_per_value")
        scatter(s, grid[1][column], problem, "seconds")
        grid[0][column].set_xlabel("bytes a value, one client's upload")
        grid[1][column].set_xlabel("seconds a million values, one core")
        for row in grid:
            row[column].set_ylabel("accuracy less float64's, points")
    marks = [
        plt.Line2D([], [], ls="", marker=m, color=c, label=label, ms=7)
        for c, m, label in STYLES.values()
    ]
    marks += [
        plt.Line2D([], [], ls="", marker="*", color="black", ms=10, label="peer"),
        plt.Line2D([], [], color="0.5", label="plaintext (dotted: its 4 bytes)"),
        plt.Line2D([], [], color="#0072B2", alpha=0.6, label="Pareto front of ours"),
    ]
    fig.legend(handles=marks, loc="lower center", ncol=3, frameon=False)
    fig.suptitle(
        f"Accuracy against bytes and seconds, {s.middle} clients, 128-bit encryption, "
        f"{SPLITS[s.splits[0]][0]}\n"
        "mean of paired differences over seeds; numbers: bits a value in sum-key lanes",
        fontsize=12,
    )
    fig.tight_layout(rect=(0, 0.1, 1, 0.98))
    fig.savefig(PICTURES / "pareto.png", dpi=110)
    plt.close(fig)


def losses(s: Study) -> None:
    """Draw the paired loss of accuracy by bits, for every cohort."""
    fig, grid = plt.subplots(
        1, len(s.problems), figsize=(11, 4.2), sharey=True, squeeze=False
    )
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7"]
    for axes, problem in zip(grid[0], s.problems, strict=True):
        for k, clients in enumerate(s.cohorts):
            by_bits = s.by_bits(problem, clients, s.splits[0])
            bits = sorted(by_bits)
            axes.errorbar(
                [b + 0.25 * (k - 1) for b in bits],
                [100 * by_bits[b][0] for b in bits],
                [100 * by_bits[b][1] for b in bits],
                marker="o", ms=5, capsize=3, lw=1, color=colours[k],
                label=f"{clients} clients",
            )  # fmt: skip
        axes.axhline(0, color="0.5", lw=1)
        axes.grid(True, color="0.94")
        axes.set_title(problem)
        axes.set_xlabel("bits a value")
        axes.set_xticks(s.raw["setting"]["bits"])
    grid[0][0].set_ylabel("accuracy less that of float64, points")
    grid[0][-1].legend(frameon=False)
    fig.suptitle(
        "What rounding costs: paired differences, 95 % intervals over seeds; "
        f"sum-key lanes, {SPLITS[s.splits[0]][0]}"
    )
    fig.tight_layout()
    fig.savefig(PICTURES / "bits.png", dpi=110)
    plt.close(fig)


def splits(s: Study) -> None:
    """Draw the paired loss of accuracy by bits, for every kind of split."""
    fig, grid = plt.subplots(
        1, len(s.problems), figsize=(11, 4.2), sharey=True, squeeze=False
    )
    for axes, problem in zip(grid[0], s.problems, strict=True):
        for k, split in enumerate(s.splits):
            label, colour, marker = SPLITS[split]
            found = s.by_bits(problem, s.middle, split)
            bits = sorted(found)
            axes.errorbar(
                [b + 0.3 * (k - 1) for b in bits],
                [100 * found[b][0] for b in bits],
                [100 * found[b][1] for b in bits],
                marker=marker, ms=5, capsize=3, lw=1, color=colour, label=label,
            )  # fmt: skip
        axes.axhline(0, color="0.5", lw=1)
        axes.grid(True, color="0.94")
        axes.set_title(problem)
        axes.set_xlabel("bits a value")
        axes.set_xticks(s.raw["setting"]["bits"])
    grid[0][0].set_ylabel("accuracy less that of float64, points")
    grid[0][-1].legend(frameon=False)
    fig.suptitle(
        f"Kinds of split, {s.middle} clients, sum-key lanes: "
        "paired differences, 95 % intervals over seeds"
    )
    fig.tight_layout()
    fig.savefig(PICTURES / "splits.png", dpi=110)
    plt.close(fig)


def sizes(s: Study) -> None:
    """Draw bytes a value by cohort size."""
    fig, grid = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
    for axes, mode in zip(grid, ("sum-key", "shared-key"), strict=True):
        for colour, bits in zip(colours, s.raw["setting"]["bits"], strict=False):
            least: dict[int, float] = {}
            for r in s.raw["size"]:
                if r["mode"] == mode and r["bits"] == bits:
                    size = r["wire_bytes_per_value_up"]
                    least[r["clients"]] = min(size, least.get(r["clients"], size))
            axes.plot(*zip(*sorted(least.items()), strict=True), "o-", ms=4, lw=1.2,
                      color=colour, label=f"{bits} bits")  # fmt: skip
        axes.axhline(4, color="0.4", ls=":", lw=1.2)
        if mode == "sum-key":  # the other panel's curves leave no room
            axes.annotate("float32", (3, 4.1), fontsize=8, color="0.3")
        axes.set_xscale("log", base=2)
        axes.set_xticks(
            [3, 8, 16, 64, 256, 1024], ["3", "8", "16", "64", "256", "1024"]
        )
        axes.set_title(mode)
        axes.set_xlabel("largest cohort, clients")
        axes.grid(True, color="0.94")
    grid[0].set_ylabel("bytes a value, one client's upload")
    grid[0].legend(frameon=False, ncol=2)
    fig.suptitle("Bytes a value of a million, cheapest preset, headers included")
    fig.tight_layout()
    fig.savefig(PICTURES / "bytes.png", dpi=110)
    plt.close(fig)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return an aligned Markdown table."""
    widths = [max(len(r[k]) for r in [head, *rows]) for k in range(len(head))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) + " |"
        for r in [head, *rows]
    ]
    rule = "| " + " | ".join("-" * w for w in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def percent(x: tuple[float, float]) -> str:
    """Return a difference in percentage points with its interval."""
    return f"{100 * x[0]:+.2f} ± {100 * x[1]:.2f}".replace("-", "−")


def span(x: list[int]) -> str:
    """Return the least and the largest."""
    return str(min(x)) if min(x) == max(x) else f"{min(x)} to {max(x)}"


def spoken(s: Study) -> str:
    """Return how examples are spread over clients."""
    text = "labels spread over clients by a Dirichlet distribution of concentration 0.5"
    if len(s.splits) == 1:
        return text
    return (
        f"{text} (all cohorts, all encodings but for slots in the largest), or, with {s.middle} clients and lanes, "
        "by label (each client has one of equal runs of the examples in order of label), "
        "or at random in sizes that follow a power law with exponent 1.5"
    )


def kinds(s: Study) -> str:
    """Return the section about kinds of split; empty where there is one."""
    if len(s.splits) == 1:
        return ""
    names = [SPLITS[k][0] for k in s.splits]
    spread = [
        [
            r["problem"], SPLITS[r["split"]][0], span(r["examples"]),
            span(r["classes"]), f"{np.mean(r['classes']):.1f}",
            f"{100 * np.mean(plain['accuracy']):.1f}",
        ]
        for r in s.raw["spread"]
        if r["clients"] == s.middle
        for plain in s.rows(r["problem"], s.middle, r["split"])
        if plain["kind"] == "plain"
    ]  # fmt: skip
    lost = [
        [mode, str(b)]
        + [
            percent(s.loss(mode=mode, encoding="lanes", bits=b, split=k,
                           clients=s.middle, rounding="stochastic"))
            for k in s.splits
        ]
        for b in s.raw["setting"]["bits"]
        for mode in ("sum-key", "shared-key")
    ]  # fmt: skip
    others = [
        [name, "as sent"]
        + [percent(s.loss(system=name, split=k, clients=s.middle)) for k in s.splits]
        for name in [s.weights, *(n for n, c in s.cost.items() if c["kind"] == "peer")]
        if name
    ]
    return f"""## Kinds of split

What {s.middle} clients have, over {s.raw["setting"]["seeds"]} seeds, and what averaging in float64 reaches with it:

{table(["problem", "split", "examples a client", "classes a client", "their mean", "float64's accuracy, %"], spread)}

Accuracy less that of float64, in percentage points, {s.middle} clients, both problems, lanes, with 95 % intervals:

{table(["system", "bits", *names], lost + others)}

![Loss of accuracy by bits and kind of split](study/splits.png)

The split moves the accuracy of float64 itself; whether the rounding costs more on top is what the columns compare. In `shared-key` weights are public factors of at most 255: larger ones are scaled and rounded, which no number of bits mends; the row of float64 with those weights says what that alone does.

"""


def page(s: Study) -> str:
    """Return the page's text."""
    raw, setting = s.raw, s.raw["setting"]
    bits, low, first = s.enough(), min(setting["bits"]), s.splits[0]
    points = []
    for b in setting["bits"]:
        for mode in ("sum-key", "shared-key"):
            fits = [c for c in raw["cost"]
                    if (c.get("mode"), c.get("encoding"), c.get("bits"))
                    == (mode, "lanes", b)]  # fmt: skip
            if not fits:
                continue
            c = min(fits, key=lambda c: c["bytes_per_value"])
            points.append([
                mode, str(b), c["preset"], level(c["preset"]),
                f"{c['bytes_per_value']:.2f}",
                f"{c['encrypt'] * 1e3:.0f}", f"{c['decrypt'] * 1e3:.0f}",
                percent(s.loss(mode=mode, encoding="lanes", bits=b, split=first,
                               rounding="stochastic")),
            ])  # fmt: skip
    others = []
    for r in raw["cost"]:
        if r["kind"] == "peer":
            others.append([
                r["system"],
                "see below" if r["source"].startswith("flwr") else str(r["security_bits"]),
                f"{r['bytes_per_value']:.1f}",
                f"{r['encrypt'] * 1e3:.0f}" if "encrypt" in r else "not run",
                f"{r['decrypt'] * 1e3:.0f}" if "decrypt" in r else "not run",
                percent(s.loss(system=r["system"], split=first)),
            ])  # fmt: skip
    packed = []
    for mode in ("sum-key", "shared-key"):
        for encoding in ("lanes", "slots", "slots-ci"):
            fits = [c for c in raw["cost"]
                    if (c.get("mode"), c.get("encoding"), c.get("bits"))
                    == (mode, encoding, 16)]  # fmt: skip
            for c in fits:
                packed.append([
                    mode, encoding, c["preset"], level(c["preset"]),
                    f"{c['bytes_per_value']:.2f}",
                    f"{c['encrypt'] * 1e3:.0f}", f"{c['fold'] * 1e3:.0f}",
                    f"{c['decrypt'] * 1e3:.0f}",
                ])  # fmt: skip
    secure = {r["preset"]: r for r in raw["size"]}
    presets = [
        [name, str(r["ring_degree"]), str(r["log2_modulus"]), str(ESTIMATES[name][0]),
         str(r["security_bits"]), *map(str, ESTIMATES[name][1:])]
        for name, r in sorted(secure.items())
    ]  # fmt: skip
    cheapest = {
        mode: min(
            (r["wire_bytes_per_value_up"], r["preset"])
            for r in raw["size"]
            if (r["mode"], r["bits"], r["clients"]) == (mode, bits, 8)
        )
        for mode in ("sum-key", "shared-key")
    }
    sixteen = min(
        (r["wire_bytes_per_value_up"], r["preset"])
        for r in raw["size"]
        if (r["mode"], r["bits"], r["clients"]) == ("sum-key", 16, 8)
    )
    source = raw["size"][0]["security_source"]
    least = (16 + 3) / 8  # bits of the value and of a sum of eight
    machine = raw["machine"]
    return f"""# Parameters: what they cost and what they give

Generated from `benchmarks/results/study.json` by `make study-page`; measured on {raw["measured"][:10]} by `{raw["command"]}` (`make study`) on {machine["cores"]} cores ({machine["processor"]}), Python {machine["python"]}, numpy {machine["numpy"]}.

## Recommendation

- **Take `sum-key`, lanes, and the preset that `cryptflow plan` puts first.** At every number of bits it takes the fewest bytes of all combinations at 128 bits of security; accuracy depends on the bits alone.
- **{bits} bits are enough here**: the fewest with which the loss of accuracy against float64{" with the same weights" if s.weights else ""} is below 0.05 percentage points with 95 % confidence{", in both modes and with every kind of split" if len(s.splits) > 1 else ""} ({cheapest["sum-key"][0]:.2f} bytes a value for 8 clients with {cheapest["sum-key"][1]}, where float32 has 4). **16 bits, the default**, cost {sixteen[0]:.2f} bytes with {sixteen[1]}{f" and leave {16 - bits} bits of margin for models whose updates are less even than these" if bits < 16 else ""}. More than 16 gained nothing.
- Stochastic rounding is the default because its errors are without bias and do not add up over rounds. Here rounding to nearest differs from float64 by {percent(s.loss(rounding="nearest", bits=bits, split=first))} points with {bits} bits, and by {percent(s.loss(rounding="nearest", bits=low, split=first))} with {low}; stochastic rounding with {low} by {percent(s.loss(mode="sum-key", rounding="stochastic", encoding="lanes", bits=low, clients=s.middle, split=first))}.
- `shared-key` costs {cheapest["shared-key"][0] / cheapest["sum-key"][0]:.1f} times the bytes for the same accuracy, and rounds weights above 255 examples besides. Slots cost more again, and give nothing back as long as nothing encrypted is multiplied.

## What was done

Federations of {", ".join(map(str, s.cohorts))} clients train a network of one hidden layer on {" and ".join(s.problems)} (scikit-learn), {spoken(s)}, weights the numbers of examples, {setting["rounds"]} rounds of two local epochs, {setting["seeds"]} seeds. Every mean of every round went through real ciphertexts (`cryptflow.hazmat`, or the `tenseal` package); ranges are the powers of two that negotiation would find. The same federation, same seeds, averaged in float64 is what each is compared with. Bytes and seconds are those of an update of 262,144 values among 8 clients, on one core, scaled to a million.

![Accuracy against bytes and seconds](study/pareto.png)

## Bits

{table(["mode", "bits", "cheapest preset", "security, bits", "bytes/value", "encrypt ms/M", "decrypt ms/M", "accuracy − float64, points"], points)}

![Loss of accuracy by bits](study/bits.png)

The difference is over all problems, cohorts and seeds{" of the split by Dirichlet" if len(s.splits) > 1 else ""}, with its 95 % interval. Security is the gate's level and, in brackets, the estimates, classical and quantum; see [Security](#security).

{kinds(s)}## Encodings and presets, 16 bits

{table(["mode", "encoding", "preset", "security, bits", "bytes/value", "encrypt ms/M", "fold ms/M (8 clients)", "decrypt ms/M"], packed)}

Accuracy does not depend on the preset: sums are exact, and a preset has room or is refused. It depends on the encoding only through the last rounding of slots.

## Security

**The level is fixed: 128 bits.** It is no axis of the study, since the gate refuses whatever lies below when a scheme is constructed, without an override, and every preset is close under its limit. All points of ours stand at that one level.

{table(["preset", "N", "log2 q", "gate's limit", "gate, bits", "estimate, classical", "estimate, quantum"], presets)}

The gate is the printed table: {source}. The estimates were made with the Lattice Estimator when the presets were chosen and are not measured here: the least of usvp, bdd and dual-hybrid at width 4.53/√2, which is what two honest clients' secrets leave each other, classical after MATZOV, quantum after LaaMosPol14. Quantum walks (ChaLoy21) without polynomial factors give 93 to 97 by the same script: no level is claimed against those.

- **Lower levels are not offered**: they would buy next to nothing. In `sum-key` a value of 16 bits summed over 8 clients fills {least:.2f} bytes whatever the level; {sixteen[0]:.2f} are sent, so that a larger modulus saves at most {100 * (1 - least / sixteen[0]):.0f} %, and accuracy does not depend on it.
- **Higher levels are not offered**: they would take the same moduli in larger rings, with about the same bytes a value for large models, more padding for small ones, and the same accuracy. The gate would need a second table and every party a choice that can be made wrongly.

So the choice is between rings at the same level. Larger rings waste less of each coefficient and pay with padding for small models. The presets' exact numbers are in [spec.md](spec.md), what is not claimed in [THREAT_MODEL.md](../THREAT_MODEL.md).

## Cohorts

![Bytes a value by cohort size](study/bytes.png)

## Peers' defaults

{table(["system", "security, bits", "bytes/value", "encrypt ms/M", "decrypt ms/M", "accuracy − float64, points"], others)}

TenSEAL N=8192 [60,40,40] with scale 2^40 is what its tutorials and NVIDIA FLARE's HE take; N=4096 [40,20,40] with scale 2^20 is the small set of the same tutorials; both public-key, the package's own ciphertexts and serialisation. SEAL holds both to its 128-bit table: 160 of 218 bits of modulus for N=8192, 100 of 109 for N=4096. Flower's SecAgg+ was not run: its clipping and quantisation (8.0, 2^22 steps, modulus 2^32, largest weight 1000: the documented defaults of `SecAggPlusWorkflow`) are applied in numpy, its bytes are those of residues modulo 2^32. It hides updates by masks that clients share, with other trust and other failures than encryption. No level is given for it: keys are agreed on at 128 bits or more, but each mask is drawn from a generator with a seed of 32 bits (`pseudo_rand_gen`, flwr 1.42).

## Limits

Two small problems and one architecture; updates of large models have heavier tails, which is what the margin is for. Intervals over {setting["seeds"]} seeds are wide. Seconds are of one machine; `cryptflow plan` measures yours.
"""


def main() -> None:
    """Write plots and page."""
    global PICTURES
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULT, help="file of results")
    parser.add_argument(
        "--docs", type=Path, default=PAGE.parent, help="folder to write"
    )
    args = parser.parse_args()
    text, PICTURES = args.docs / PAGE.name, args.docs / PICTURES.name
    s = Study(json.loads(args.results.read_text()))
    PICTURES.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip
    pareto(s)
    losses(s)
    sizes(s)
    if len(s.splits) > 1:
        splits(s)
    text.write_text(page(s))
    print(f"written: {text}, {PICTURES}/*.png")


if __name__ == "__main__":
    main()
