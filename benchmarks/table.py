"""Tables and goals, from rows of results."""

from __future__ import annotations

from collections.abc import Sequence

from machine import Row

MAIN = "n4096-q102 sum-key b=16"
SHARED = "n4096-q102 shared-key b=16"
DEFAULT = "N=8192 [60,40,40] symmetric"
PUBLIC = "N=8192 [60,40,40] public-key"
WORK = ("encrypt", "fold", "decrypt")


def find(
    rows: Sequence[Row], what: str, system: str, parameters: str, threads: int = 1
) -> Row | None:
    """Return the row measured, None when there is none."""
    wanted = (what, system, parameters, threads)
    for row in rows:
        if (row["what"], row["system"], row["parameters"], row["threads"]) == wanted:
            return row
    return None


def aligned(lines: Sequence[Sequence[str]], text_columns: int) -> str:
    """Align columns: text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    out = []
    for line in lines:
        cells = [
            cell.ljust(w) if i < text_columns else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        out.append("  ".join(cells).rstrip())
    out.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(out)


def rate(row: Row | None) -> str:
    """Return million values a second, three digits."""
    if row is None:
        return "-"
    x = row["values_per_second"] / 1e6
    return f"{x:.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def groups(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """Return (system, parameters, threads) in the order measured."""
    keys = ((r["system"], r["parameters"], r["threads"]) for r in rows)
    return list(dict.fromkeys(keys))


def table(rows: Sequence[Row]) -> str:
    """Return one line for each system, parameters and number of threads."""
    head = ("system", "parameters", "cores", "encrypt", "fold", "decrypt", "bytes")
    lines = [head]
    for system, parameters, threads in groups(rows):
        found = [find(rows, w, system, parameters, threads) for w in WORK]
        size = next(r["bytes_per_value"] for r in found if r is not None)
        cells = [rate(r) for r in found]
        lines.append((system, parameters, str(threads), *cells, f"{size:.2f}"))
    note = "million values a second, median; bytes a value (float32: 4)"
    return aligned(lines, 2) + "\n" + note


def ratio(
    rows: Sequence[Row], ours: tuple[str, str], peer: tuple[str, str, str], threads: int
) -> float | None:
    """Return how many times as fast ours is, None when either is missing."""
    a = find(rows, ours[0], "cryptflow", ours[1], threads)
    b = find(rows, *peer)
    if a is None or b is None:
        return None
    return float(a["values_per_second"] / b["values_per_second"])


def measured(rows: Sequence[Row]) -> list[tuple[str, float | None, str, float]]:
    """Return what was to be reached: name, value, relation, limit."""
    every = max(r["threads"] for r in rows)
    out: list[tuple[str, float | None, str, float]] = []
    for what, limit in (("encrypt", 40), ("decrypt", 40), ("fold", 60)):
        r = ratio(rows, (what, MAIN), (what, "tenseal", DEFAULT), 1)
        out.append((f"{what}, times TenSEAL {DEFAULT}", r, "≥", limit))
    numpy = ("fold", "numpy", "float32 addition")
    r = ratio(rows, ("fold", MAIN), numpy, 1)
    out.append(("fold, times numpy float32", r, "≥", 0.3))
    r = ratio(rows, ("encrypt", SHARED), ("encrypt", "tenseal", PUBLIC), 1)
    out.append((f"encrypt with the public key, times TenSEAL {PUBLIC}", r, "≥", 15))
    for what in WORK:
        if every > 1:
            own = (what, "cryptflow", MAIN)
            r = ratio(rows, (what, MAIN), own, every)
            out.append((f"{what}, {every} cores, times one", r, "≥", 0.9 * every))
    sizes = (
        ("n4096-q102 sum-key b=16 n=64", "16 bits, n ≤ 64", 3.25),
        ("n4096-q102 sum-key b=24 n=64", "24 bits, n ≤ 64", 4.3),
        ("n8192-q204 sum-key b=16", "16 bits, n ≤ 8", 2.6),
    )
    for parameters, name, limit in sizes:
        row = find(rows, "encrypt", "cryptflow", parameters)
        value = None if row is None else float(row["bytes_per_value"])
        out.append((f"bytes a value, {name}", value, "≤", limit))
    counts = [r["allocations_per_chunk"] for r in rows if r["system"] == "cryptflow"]
    out.append(("allocations a chunk, warm, any row", max(counts), "≤", 0))
    return out


def goals(rows: Sequence[Row]) -> str:
    """Return what was to be reached beside what was."""
    lines = [("goal", "measured", "to reach", "")]
    for name, value, relation, limit in measured(rows):
        if value is None:
            said = ("-", f"{relation} {limit:g}", "no peer")
        else:
            held = value >= limit if relation == "≥" else value <= limit
            number = f"{value:.0f}" if value == int(value) else f"{value:.3g}"
            said = (number, f"{relation} {limit:g}", "yes" if held else "no")
        lines.append((name, *said))
    return aligned(lines, 1)
