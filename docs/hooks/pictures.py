"""Draw the pictures of docs/concepts into docs/img.

Usage: ``python docs/hooks/pictures.py``; the package is installed. What the
pictures count is computed: lanes by the planner, errors by encrypting.
"""

from __future__ import annotations

import math
from html import escape
from pathlib import Path

import numpy as np

import cryptflow
from cryptflow import hazmat

FOLDER = Path(__file__).resolve().parents[1] / "img"

# Both colour schemes, so that a picture is legible on a dark page too.
STYLE = """
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; \
font-size: 15px; fill: #1e293b; }
.small { font-size: 13px; fill: #475569; }
.title { font-weight: 600; }
.page { fill: #ffffff; }
.line { stroke: #64748b; stroke-width: 1.6; fill: none; }
.head { fill: #64748b; }
.thin { stroke: #cbd5e1; stroke-width: 1.2; fill: none; }
.client { fill: #ccfbf1; stroke: #0f766e; }
.server { fill: #fef3c7; stroke: #b45309; }
.keys { fill: #ede9fe; stroke: #6d28d9; }
.plain { fill: #f1f5f9; stroke: #64748b; }
.noise { fill: #e2e8f0; stroke: #64748b; }
.mark { fill: #0f766e; }
.bound { stroke: #b45309; stroke-width: 2; fill: none; }
@media (prefers-color-scheme: dark) {
text { fill: #e2e8f0; }
.small { fill: #a8b3c4; }
.page { fill: #1e2330; }
.line { stroke: #94a3b8; }
.head { fill: #94a3b8; }
.thin { stroke: #475569; }
.client { fill: #134e4a; stroke: #2dd4bf; }
.server { fill: #57370b; stroke: #fbbf24; }
.keys { fill: #3b2a66; stroke: #a78bfa; }
.plain { fill: #2b3242; stroke: #94a3b8; }
.noise { fill: #394255; stroke: #94a3b8; }
.mark { fill: #2dd4bf; }
.bound { stroke: #fbbf24; }
}
"""


class Picture:
    """Boxes, arrows and words on a page of some width and height."""

    def __init__(self, width: int, height: int, about: str) -> None:
        self.size = (width, height)
        self.parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'role="img"><title>{escape(about)}</title><style>{STYLE}</style>',
            f'<rect class="page" width="{width}" height="{height}" rx="8"/>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "", at: str = "middle"):
        """Write words with their baseline at y."""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{at}">'
            f"{escape(words)}</text>"
        )

    def box(self, x: float, y: float, w: float, h: float, kind: str, *lines: str):
        """Draw a box; the first line is its title."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" '
            f'stroke-width="1.4" class="{kind}"/>'
        )
        top = y + h / 2 - 10 * (len(lines) - 1) + 5
        for i, words in enumerate(lines):
            self.text(x + w / 2, top + 20 * i, words, "small" if i else "title")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "line"):
        """Draw a line."""
        self.parts.append(f'<path class="{kind}" d="M{x1:g} {y1:g}L{x2:g} {y2:g}"/>')

    def arrow(self, x1: float, y1: float, x2: float, y2: float, words: str = ""):
        """Draw an arrow with words above its middle."""
        far = math.hypot(x2 - x1, y2 - y1)
        ux, uy = (x2 - x1) / far, (y2 - y1) / far
        bx, by = x2 - 10 * ux, y2 - 10 * uy
        self.line(x1, y1, bx, by)
        self.parts.append(
            f'<path class="head" d="M{x2:.1f} {y2:.1f}L{bx - 5 * uy:.1f} '
            f'{by + 5 * ux:.1f}L{bx + 5 * uy:.1f} {by - 5 * ux:.1f}Z"/>'
        )
        if words:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - 8, words, "small")

    def __str__(self) -> str:
        return "\n".join([*self.parts, "</svg>", ""])


def parties() -> Picture:
    """Draw who has what, for the front page."""
    p = Picture(780, 330, "Clients, an aggregator without keys, a key service")
    for i in range(3):
        y = 46 + 72 * i
        p.box(20, y, 140, 52, "client", f"client {i + 1}", "data, training")
        p.arrow(160, y + 18, 306, 108 + 14 * i)
    p.box(306, 82, 170, 124, "server", "aggregator", "adds ciphertexts", "holds no key")
    p.box(590, 82, 170, 124, "keys", "key service", "opens sums of whole",
          "cohorts, keeps a log")  # fmt: skip
    p.text(232, 66, "ciphertexts", "small")
    p.arrow(306, 188, 164, 238)
    p.text(264, 238, "sum, still encrypted", "small", "start")
    p.arrow(476, 124, 590, 124, "who is in")
    p.arrow(590, 166, 476, 166, "yes or no")
    p.line(675, 206, 675, 292)
    p.line(675, 292, 90, 292)
    p.arrow(90, 292, 90, 246)
    p.text(382, 314, "key of that one sum, for clients only", "small")
    return p


def round_() -> Picture:
    """Draw who sends what in a round."""
    p = Picture(780, 590, "A round: what travels between client, aggregator, keys")
    client, server, keys = 120, 400, 660
    for x, kind, name, about in (
        (client, "client", "each client", "data, training"),
        (server, "server", "aggregator", "holds no key"),
        (keys, "keys", "key service", "sees no ciphertext"),
    ):
        p.line(x, 70, x, 570, "thin")
        p.box(x - 90, 16, 180, 54, kind, name, about)
    gap = 7

    def send(y: float, a: float, b: float, words: str) -> None:
        side = gap if b > a else -gap
        p.arrow(a + side, y, b - side, y)
        p.text((a + b) / 2 if abs(a - b) < 300 else 260, y - 8, words, "small")

    send(110, keys, client, "1  signed specification of the round")
    p.box(client - 90, 128, 180, 46, "client", "2  encrypts", "its update")
    send(204, client, server, "3  ciphertext")
    send(244, client, keys, "4  key of this one update, sealed")
    send(284, server, keys, "5  list of who is in")
    p.box(keys - 100, 302, 200, 46, "keys", "6  release gate", "decision → audit log")
    send(378, keys, server, "7  yes or no, never a key")
    p.box(server - 90, 396, 180, 46, "server", "8  adds", "what it cannot read")
    send(472, server, client, "9  sum, still encrypted")
    send(508, keys, client, "10  key of that one sum, sealed")
    p.box(
        client - 90, 524, 180, 46, "client", "11  opens the sum", "checks, applies mean"
    )
    return p


def keys() -> Picture:
    """Draw where the keys of one round are, and what their sum opens."""
    p = Picture(780, 380, "The sum of the keys opens the sum of the updates")
    for i, digit in enumerate("₁₂₃"):
        y = 24 + 118 * i
        p.box(16, y, 170, 88, "client", f"client {i + 1}", f"update u{digit}",
              f"fresh key s{digit}")  # fmt: skip
        p.arrow(186, y + 36, 330, 92 + 18 * i)
        p.arrow(186, y + 58, 330, 256 + 18 * i)
    p.box(330, 62, 200, 92, "server", "aggregator", "ciphertexts: c₁ + c₂ + c₃",
          "no key")  # fmt: skip
    p.box(330, 226, 200, 92, "keys", "key service", "keys: s₁ + s₂ + s₃",
          "no ciphertext")  # fmt: skip
    p.arrow(530, 108, 612, 164)
    p.arrow(530, 272, 612, 216)
    p.box(612, 138, 152, 104, "client", "each client", "opens", "u₁ + u₂ + u₃")
    p.text(240, 24, "ciphertexts", "small")
    p.text(240, 366, "keys, sealed for the key service", "small")
    p.text(688, 272, "s₁ + s₂ + s₃ opens", "small")
    p.text(688, 292, "neither c₁ nor c₁ + c₂", "small")
    return p


def lanes() -> Picture:
    """Draw one coefficient to scale, as the planner lays it out."""
    best = cryptflow.plan(100_000, clients=3, bits=16, calibrate=False)[0]
    total, low = best["log2_modulus"], best["delta_bits"]
    bits, room, count = best["bits"], best["headroom_bits"], best["lanes"]
    p = Picture(780, 210, f"One coefficient of {total} bits carries {count} values")
    left, unit, top, tall = 20, 740 / total, 70, 52
    p.text(left, 30, f"one coefficient of {best['preset']}: {total} bits, "
           f"{count} values of {bits} bits", "title", "start")  # fmt: skip
    right = left + 740

    def part(start: float, size: float, kind: str, words: str = "") -> None:
        p.parts.append(
            f'<rect x="{right - (start + size) * unit:.1f}" y="{top}" '
            f'width="{size * unit:.1f}" height="{tall}" class="{kind}"/>'
        )
        if words:
            p.text(right - (start + size / 2) * unit, top + 32, words)

    part(0, low, "noise")
    for lane in range(count):
        start = low + lane * (bits + room)
        part(start, bits, "client", f"value {lane + 1}")
        part(start + bits, room, "server")
    used = low + count * (bits + room)
    part(used, total - used, "plain")
    # The room above the value in the middle, away from the other words.
    inner = low + count // 2 * (bits + room)
    middle = right - (inner + bits + room / 2) * unit
    p.line(right - low * unit / 2, top + tall, right - low * unit / 2, 148, "thin")
    p.text(right, 164, f"{low} bits: room for", "small", "end")
    p.text(right, 182, "the sum of the noise", "small", "end")
    p.line(middle, top + tall, middle, 148, "thin")
    p.text(middle, 164, f"{room} bits: carries of the sum", "small")
    p.text(middle, 182, f"of {best['clients']} clients", "small")
    p.line(right - (used + total) / 2 * unit, top + tall, left + 14, 148, "thin")
    p.text(left, 164, f"{total - used} bits stay empty: a sum that", "small", "start")
    p.text(left, 182, "sets them is refused", "small", "start")
    return p


def ranges() -> Picture:
    """Draw how a cohort finds its largest power of two."""
    p = Picture(780, 330, "Three clients agree on a range without naming theirs")
    exponents = range(-8, 3)
    chosen = (-4, -6, -4)
    left, cell = 190, 50

    def row(y: float, kind: str, name: str, counts: list[int]) -> None:
        p.text(left - 16, y + 24, name, "title", "end")
        for i, count in enumerate(counts):
            p.parts.append(
                f'<rect x="{left + i * cell}" y="{y}" width="{cell - 4}" height="36" '
                f'rx="4" class="{kind if count else "plain"}"/>'
            )
            p.text(left + i * cell + cell / 2 - 2, y + 24, str(count))

    p.text(left - 16, 34, "at most", "small", "end")
    for i, e in enumerate(exponents):
        power = "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(c)] if c != "-" else "⁻" for c in str(e))
        p.text(left + i * cell + cell / 2 - 2, 34, f"2{power}", "small")
    rows = [[int(e == mine) for e in exponents] for mine in chosen]
    for i, counts in enumerate(rows):
        row(50 + 46 * i, "client", f"client {i + 1}", counts)
    p.text(left - 16, 212, "all encrypted, added, opened as a sum:", "small", "start")
    row(226, "server", "cohort", [sum(c) for c in zip(*rows, strict=True)])
    best = left + exponents.index(max(chosen)) * cell + cell / 2 - 2
    p.arrow(best, 290, best, 264)
    p.text(best, 308, "the largest that anybody needs: the range", "small")
    return p


def errors() -> Picture:
    """Draw the measured error of a mean and its bound, by bits."""
    p = Picture(780, 400, "Largest error of a mean and its stated bound, by bits")
    rng = np.random.default_rng(0)
    updates = [rng.normal(0, 0.1, 20_000).astype(np.float32) for _ in range(3)]
    exact = np.mean(np.array(updates, np.float64), axis=0)
    left, top, wide, tall = 96, 56, 660, 270
    high, low = -2, -7

    def at(error: float) -> float:
        return top + tall * (high - math.log10(error)) / (high - low)

    p.text(20, 30, "Largest error of the mean of three updates, range 1, 20,000 values",
           "title", "start")  # fmt: skip
    for power in range(low, high + 1):
        y = at(10.0**power)
        p.line(left, y, left + wide, y, "thin")
        digits = "⁻" + "⁰¹²³⁴⁵⁶⁷⁸⁹"[-power]
        p.text(left - 10, y + 5, f"10{digits}", "small", "end")
    bits = (8, 10, 12, 14, 16, 18, 20)
    for i, b in enumerate(bits):
        # Rounding to nearest: the sum is exact, so the error is the same each time.
        r = hazmat.Round(20_000, clients=3, bits=b, rounding="nearest")
        made = [r.new_key() for _ in updates]
        frames = [r.encrypt(k, u) for k, u in zip(made, updates, strict=True)]
        mean = r.decrypt(r.release(made), r.aggregate(frames)).to_numpy()
        x = left + wide * (i + 0.5) / len(bits)
        y = at(float(np.abs(mean - exact).max()))
        p.parts.append(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="6"/>')
        bound = at(r.error_bound(1.0, contributions=3))
        p.line(x - 22, bound, x + 22, bound, "bound")
        p.text(x, top + tall + 22, str(b), "small")
    p.text(left + wide / 2, top + tall + 44, "bits of a value", "small")
    p.line(left + 120, 386, left + 160, 386, "bound")
    p.text(left + 168, 391, "stated bound", "small", "start")
    p.parts.append(f'<circle class="mark" cx="{left + 320}" cy="386" r="6"/>')
    p.text(left + 334, 391, "measured, after decryption", "small", "start")
    return p


def pictures() -> dict[str, str]:
    """Return every picture by the name of its file."""
    drawn = (parties, round_, keys, lanes, ranges, errors)
    return {f"{draw.__name__.rstrip('_')}.svg": str(draw()) for draw in drawn}


if __name__ == "__main__":
    for name, text in pictures().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
