"""Write docs/benchmarks.md and its pictures from the results.

Usage: ``python benchmarks/page.py [--results FOLDER] [--docs FOLDER]``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import plots
import secrets_timing as secrets
from machine import RESULTS, ROOT, Row
from models import size
from table import (
    DEFAULT,
    PUBLIC,
    SHARED,
    WORK,
    find,
    groups,
    measured,
    rate,
)

Lines = list[str]

#: Phases of a stream in the order in which they come.
PHASES = ["start", "encrypt, first half", "encrypt, second half", "fold and decrypt"]


def markdown(head: list[str], body: list[list[str]], text_columns: int) -> Lines:
    """Return an aligned table, numbers to the right."""
    table = [head, *body]
    widths = [max(3, *map(len, column)) for column in zip(*table, strict=True)]
    rule = [
        "-" * w if i < text_columns else "-" * (w - 1) + ":"
        for i, w in enumerate(widths)
    ]
    out = []
    for line in (head, rule, *body):
        cells = [
            c.ljust(w) if i < text_columns else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        out.append(f"| {' | '.join(cells)} |")
    return out


def made(result: Row) -> str:
    """Say where and how a result was measured."""
    m, versions = result["machine"], result["versions"]
    found = ", ".join(f"{name} {v}" for name, v in versions.items() if v)
    load = m.get("load_before")
    if load is None:
        busy = " **Preliminary: how busy the machine was is not recorded.**"
    elif load > 0.7:
        busy = f" **Preliminary: measured beside other work (load {load:.1f}).**"
    else:
        busy = ""
    return (
        f"`{result['command']}`, {result['measured'][:10]}, {m['processor']}, "
        f"{m['cores']} cores, {m['memory_bytes'] / (1 << 30):.0f} GiB, "
        f"{m['system']}; {found}.{busy}"
    )


def times(many: list[Row | None], one: list[Row | None], rate_of: str) -> str:
    """Return how many times as fast work is on many cores, where it is known."""
    ratios = [
        f"{a[rate_of] / b['values_per_second']:.2f}"
        for a, b in zip(many, one, strict=True)
        if a and b and rate_of in a
    ]
    return " / ".join(ratios)


def core(result: Row) -> Lines:
    """Return goals and every row."""
    rows = result["rows"]
    goals = []
    for name, value, relation, limit in measured(rows):
        if value is None:
            goals.append([name, "no peer", f"{relation} {limit:g}", ""])
        else:
            held = value >= limit if relation == "≥" else value <= limit
            cells = [name, f"{value:.3g}", f"{relation} {limit:g}"]
            goals.append([*cells, "yes" if held else "**no**"])
    body = []
    for system, parameters, threads in groups(rows):
        found = [find(rows, w, system, parameters, threads) for w in WORK]
        one = [find(rows, w, system, parameters, 1) for w in WORK]
        b = next(r["bytes_per_value"] for r in found if r)
        speedup = apart = ""
        if threads > 1 and all(found) and all(one):
            speedup = times(found, one, "values_per_second")
            apart = times(found, one, "apart_values_per_second")
        cells = [system, parameters, str(threads), *map(rate, found)]
        body.append([*cells, f"{b:.2f}", speedup, apart])
    gaps = [
        f"- {gap['system']}: not measured, it {gap['reason']}."
        if gap["reason"].startswith("does not")
        else f"- {gap['system']}: not measured: {gap['reason']}."
        for gap in result["missing"]
    ]
    imprecise = sorted(
        {
            f"- {r['system']} {r['parameters']}: its largest error, "
            f"{r['largest_error']:.1e}, is more than a step of 16 bits."
            for r in rows
            if r.get("precise") is False
        }
    )
    head = ["system", "parameters", "cores", *WORK, "bytes", "against one core"]
    head.append("independent calls")
    runs = min(len(r["runs"]) for r in rows)
    sets = [r["parameters"] for r in rows if r["system"] == "tenseal"]
    small = next((p for p in sets if not p.startswith("N=8192")), "the other")
    return [
        "## The core beside its peers",
        "",
        f"{result['values']:,} float32 values, {result['clients']} clients "
        "(`n=64`: 64), medians of "
        f"{runs} runs or more that took turns. *encrypt* ends with bytes to send, "
        "*fold* and *decrypt* begin with bytes received and check them; ours "
        "include the hash of every frame and the linear tag.",
        "",
        made(result),
        "",
        "![speed](benchmarks/speed.png)",
        "",
        "![bytes](benchmarks/bytes.png)",
        "",
        *markdown(["to reach", "measured", "goal", "reached"], goals, 1),
        "",
        "Million values a second, median, and bytes of a value (float32: 4); the "
        "last columns are encrypt / fold / decrypt on all cores against one: of one "
        "call, and of as many calls on a core each at the same time, which is what "
        "the machine has to give.",
        "",
        *markdown(head, body, 2),
        "",
        *gaps,
        *imprecise,
        *([""] if gaps or imprecise else []),
        "`cryptflow` are frames as the client sends them, `cryptflow.hazmat` the "
        "same as Arrow arrays in Python. "
        f"`{DEFAULT}` is the default of frameworks for federated learning, "
        f"`{small}` the smallest set that TenSEAL makes within SEAL's 128-bit limits "
        "in which the mean of the cohort is still right to a step of 16 bits: "
        "the benchmark searches it. "
        f"`{PUBLIC}` is what `{SHARED}` is compared with.",
        "",
    ]


def time_goes(result: Row) -> Lines:
    """Return the shares of kinds of work."""
    found = result["shares"]
    names = list(dict.fromkeys(n for w in WORK for n in found[w]))
    body = []
    for name in names:
        parts = [found[w].get(name, 0.0) for w in WORK]
        body.append([name, *(f"{100 * p:.0f} %" if p >= 0.005 else "" for p in parts)])
    first = {w: " and ".join(list(found[w])[:3][:-1]) for w in WORK}
    aes = sum(found["encrypt"].get(k, 0) for k in ("AES-CTR", "SHA-256"))
    return [
        "## Where the time goes",
        "",
        f"Samples of a CPU profile, `{result['parameters']}`, one core. "
        + made(result),
        "",
        "![shares](benchmarks/shares.png)",
        "",
        *markdown(["kind of work", *WORK], body, 1),
        "",
        f"Encryption spends most on {first['encrypt']}, decryption on "
        f"{first['decrypt']}, folding on {first['fold']}. The keystreams and the "
        f"hash of every frame, {100 * aes:.0f} % of encryption, are the "
        "processor's own instructions for AES and SHA on a fixed number of bytes: "
        "8 of keystream a coefficient and prime for the public polynomial, 8 a "
        "coefficient for the errors, 4 a value for stochastic rounding, and one "
        "pass of SHA-256 over what is sent. With every other part at no cost, "
        "encryption "
        f"would be {1 / max(aes, 1e-9):.1f} times as fast: that is the limit of "
        "this wire format on this machine. Folding reads each byte once; to unpack "
        "a residue and check that it is below its prime costs more than to add it, "
        "and a residue of 51 bits stands for two values of which numpy reads 8 "
        "bytes. Two cores "
        "help as far as both have one to themselves: the work is independent "
        "chunk by chunk.",
        "",
    ]


def milliseconds(seconds: float) -> str:
    """Return milliseconds with three digits or so."""
    x = 1000 * seconds
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def models(result: Row) -> Lines:
    """Return our seconds and bytes beside the published ones."""
    body = []
    for x in result["rows"]:
        if x["threads"] != 1:
            continue
        theirs, s = x["published"], x["seconds"]
        known = theirs["seconds"] is not None
        total = x["all_clients_seconds"]
        body.append(
            [
                x["model"],
                f"{x['parameters']:,}",
                *(milliseconds(s[w]) for w in WORK),
                milliseconds(total),
                f"{theirs['seconds']:.3f}" if known else "n/a",
                f"{theirs['seconds'] / total:.0f}" if known else "n/a",
                size(x["bytes"]),
                size(theirs["bytes"]) if known else "n/a",
            ]
        )
    head = ["model", "parameters", *(f"{w}, ms" for w in WORK), "all, ms"]
    head += ["FedML-HE, s", "ratio", "bytes", "FedML-HE"]
    return [
        "## The models of the FedML-HE table",
        "",
        "Every parameter encrypted, values drawn, 3 clients, 16 bits, the "
        "planner's parameters, one core. *encrypt* and *decrypt* are one client's, "
        "*fold* all clients', *all* is three times encrypt, fold and one decrypt, "
        "one after the other. Published: "
        f"{result['published']}, encryption, aggregation and decryption together "
        "on an 8-core i7-7700 with PALISADE, and the ciphertexts of one client; "
        "the paper does not give the three apart, so they are not available. It "
        "was another machine: the ratio says how large the difference is, not whose "
        "code is how much better.",
        "",
        made(result),
        "",
        *markdown(head, body, 1),
        "",
        "n/a: not shown, because the figure could not be compared with a second "
        "account of the paper.",
        "",
    ]


def billion(result: Row) -> Lines:
    """Return what a mapped update of a billion values took."""
    s = result["stream"]
    mib, phases = 1 << 20, s["memory"]["phases"]
    body = [
        [f"stream: {phase}", f"{n / mib:.0f}"]
        for phase, n in sorted(phases.items(), key=lambda item: PHASES.index(item[0]))
    ]
    upload = result.get("upload")
    out = [
        "## A billion values, mapped from disk",
        "",
        f"{s['values']:,} float32 values ({4 * s['values'] / 1e9:.1f} GB) in a "
        f"mapped file, {s['parameters']}, {s['clients']} clients, {s['threads']} "
        "threads. *Stream*: every client encrypts all of it and keeps no frame; "
        "then frames are made again range by range, folded, opened, compared with "
        "the values, and the tag verified. Million values a second: "
        + ", ".join(f"{w} {s['values_per_second'][w] / 1e6:.0f}" for w in WORK)
        + f". Largest error {s['largest_error']:.2e}, bound {s['bound']:.2e}.",
        "",
    ]
    if upload:
        body.append(["upload: client", f"{upload['memory']['peak_bytes'] / mib:.0f}"])
        out += [
            "*Upload*: a Python client contributes the mapped file to an aggregator "
            "and a key service on the same machine, mutual TLS and synced disk "
            f"included: {upload['seconds']:.0f} s, "
            f"{upload['values_per_second'] / 1e6:.0f} million values a second.",
            "",
        ]
    return [
        *out,
        made(result),
        "",
        *markdown(["largest RssAnon", "MiB"], body, 1),
        "",
        f"RssAnon of `/proc/PID/status` is everything but mapped files; "
        f"{result['limit_bytes'] // mib} MiB are allowed. `make test` holds 64 Mi "
        "values to the same bound.",
        "",
    ]


def secret_timing(result: Row) -> Lines:
    """Return whether running times depend on secrets."""
    n = min(r["measurements"] for r in result["rows"])
    return [
        "## Do running times depend on secrets?",
        "",
        f"Fixed inputs against random ones, {n:,} measurements of each kind of work, "
        "in random order, compared as dudect does (Reparaz, Balasch, Verbauwhede, "
        "DATE 2017): *t* is the largest of Welch's test, whole and cropped at "
        "percentiles, without its sign. dudect speaks of a difference from 10 on; "
        "below 4.5 none was found. Everything is measured twice, and a difference is "
        "one that comes again: what one run alone finds is unclear. None found is "
        "no proof: it says that so many measurements on this machine did not show "
        "any.",
        "",
        made(result),
        "",
        *markdown(secrets.HEAD, [secrets.cells(r) for r in result["rows"]], 3),
        "",
    ]


def rounds(result: Row) -> Lines:
    """Return whole rounds between processes."""
    body, goals = [], []
    for r in result["rows"]:
        peaks = r.get("peak_bytes", {})
        server = peaks.get("aggregator", peaks.get("server"))
        memory = [server, peaks.get("kms"), peaks.get("client")]
        body.append(
            [f"{r['values'] / 1e6:.2f} M", r["system"], r["parameters"]]
            + [str(r["tensors"]), str(r["clients"])]
            + [f"{r['seconds']:.3g}", f"{r['ratio']:.1f}"]
            + [f"{r['bytes_up'] / 1e6:.1f}", f"{r['bytes_down'] / 1e6:.1f}"]
            + [f"{m / (1 << 20):.0f}" if m else "" for m in memory]
        )
        if r["system"] == "cryptflow" and (r["tensors"], r["clients"]) == (62, 4):
            kind = r["parameters"].rpartition(", ")[2]
            for what, x, limit, text in (
                ("times numpy over TCP", r["ratio"], 10, f"{r['ratio']:.1f}"),
                ("aggregator, MiB", server, 256 << 20, f"{server / (1 << 20):.0f}"),
            ):
                bound = limit if limit == 10 else limit >> 20
                held = "yes" if x <= limit else "**no**"
                name = f"11.7 M values, 4 clients, {kind}: {what}"
                goals.append([name, text, f"≤ {bound}", held])
    phases = [
        f"- {r['values'] / 1e6:.2f} M, {r['clients']} clients, "
        + r["parameters"].rpartition(", ")[2]
        + ": "
        + ", ".join(f"{p} {x:.2f} s" for p, x in r["phases"].items() if x >= 0.005)
        for r in result["rows"]
        if "phases" in r
    ]
    head = ["values", "system", "parameters", "tensors", "clients", "seconds"]
    head += ["ratio", "MB up", "MB down", "server MiB", "key service", "client"]
    return [
        "## Whole rounds between processes",
        "",
        "Clients, aggregator and key service as processes on this machine, mutual "
        "TLS, disks synced: seconds from the first client's call to the last "
        "client's mean, medians; bytes of one client; peaks of resident memory. "
        "*ratio* is to a numpy server that adds float32 from plain TCP, measured "
        "before and after. *Negotiated* rounds begin with a small encrypted round "
        "that agrees on ranges. Flower runs as it is deployed, without TLS; FLARE's "
        "encryption by its own classes over plain TCP, without its polling.",
        "",
        made(result),
        "",
        "![rounds](benchmarks/rounds.png)",
        "",
        *markdown(["to reach", "measured", "goal", "reached"], goals, 1),
        "",
        *markdown(head, body, 3),
        "",
        "Where the time goes, medians over clients:",
        "",
        *phases,
        "",
        *[
            f"- {gap['system']}: not measured: {gap['reason']}."
            for gap in result["missing"]
        ],
        "",
    ]


SECTIONS = (
    ("core.json", core),
    ("round.json", rounds),
    ("shares.json", time_goes),
    ("models.json", models),
    ("billion.json", billion),
    ("timing.json", secret_timing),
)


def main() -> None:
    """Write the page of every result there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    arguments = parser.parse_args()
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench-page` from `benchmarks/results/`; do not edit. "
        "`make bench`, `make bench-round`, `make bench-shares`, "
        "`make bench-models`, `make bench-billion` and `make timing` measure again. "
        "OpenFHE's wheels import on few interpreters; "
        "`make bench OPENFHE_PYTHON=/path/to/python` measures it with another one "
        "that has it.",
        "",
    ]
    pictures = arguments.docs / "benchmarks"
    for name, section in SECTIONS:
        file = arguments.results / name
        if file.exists():
            result = json.loads(file.read_text())
            lines += section(result)
            if name == "core.json":
                plots.speed(result, pictures / "speed.png")
                plots.bytes_per_value(result, pictures / "bytes.png")
            if name == "shares.json":
                plots.shares(result, pictures / "shares.png")
            if name == "round.json":
                plots.rounds(result, pictures / "rounds.png")
    page = arguments.docs / "benchmarks.md"
    page.write_text("\n".join(lines).rstrip() + "\n")
    print(f"written: {page}")


if __name__ == "__main__":
    main()
