"""OpenFHE's Python package: CKKS vectors with serialisation, public key.

A script of its own, needing Python 3.8 and openfhe alone, because the wheels
import on few interpreters: ``core.py`` runs it with each it is told of.
Prints rows as JSON, or the reason why there are none with exit status 3.

Usage: ``python openfhe_peer.py VALUES CLIENTS RUNS STEP``
"""

import importlib.metadata
import json
import os
import platform
import random
import statistics
import sys
import time

os.environ["OMP_NUM_THREADS"] = "1"

# Ring degree, bits of the first prime, of the scale, and further levels: the
# smallest ring that the library grants 128 bits, and the one of the frameworks
# for federated learning.
SETS = [(2048, 53, 40, 0), (8192, 60, 40, 2)]


def context(f, degree, first, scale, levels):
    """Make a context and a key pair."""
    p = f.CCParamsCKKSRNS()
    p.SetMultiplicativeDepth(levels)
    p.SetFirstModSize(first)
    p.SetScalingModSize(scale)
    p.SetRingDim(degree)
    p.SetBatchSize(degree // 2)
    p.SetSecurityLevel(f.SecurityLevel.HEStd_128_classic)
    p.SetScalingTechnique(f.ScalingTechnique.FIXEDMANUAL)
    p.SetKeySwitchTechnique(f.KeySwitchTechnique.BV)
    c = f.GenCryptoContext(p)
    for feature in (f.PKESchemeFeature.PKE, f.PKESchemeFeature.LEVELEDSHE):
        c.Enable(feature)
    return c, c.KeyGen()


def measure(values, runs, work):
    """Time work, once to warm up and then runs times."""
    rates = []
    for k in range(runs + 1):
        start = time.perf_counter()
        work()
        if k:
            rates.append(values / (time.perf_counter() - start))
    return {"values_per_second": statistics.median(rates), "runs": rates}


def rows(f, values, clients, runs, step):
    """Measure every set."""
    rng = random.Random(1)
    updates = [
        [max(-1.0, min(1.0, rng.gauss(0, 0.2))) for _ in range(values)]
        for _ in range(clients)
    ]
    out = []
    for degree, first, scale, levels in SETS:
        c, keys = context(f, degree, first, scale, levels)
        slots = degree // 2

        def encrypt(update=updates[0], c=c, keys=keys, slots=slots):
            pack, encrypt = c.MakeCKKSPackedPlaintext, c.Encrypt
            return [
                f.Serialize(
                    encrypt(keys.publicKey, pack(update[i : i + slots])), f.BINARY
                )
                for i in range(0, values, slots)
            ]

        contributions = [encrypt(u) for u in updates]

        def fold(contributions=contributions, c=c):
            read, totals = f.DeserializeCiphertextString, []
            for raws in zip(*contributions):  # noqa: B905 (Python 3.8 lacks strict)
                total = read(raws[0], f.BINARY)
                for raw in raws[1:]:
                    c.EvalAddInPlace(total, read(raw, f.BINARY))
                totals.append(total)
            return totals

        result = [f.Serialize(total, f.BINARY) for total in fold()]

        def decrypt(result=result, c=c, keys=keys, slots=slots):
            opened = []
            for i, raw in enumerate(result):
                read = f.DeserializeCiphertextString(raw, f.BINARY)
                plain = c.Decrypt(read, keys.secretKey)
                plain.SetLength(min(slots, values - i * slots))
                opened += plain.GetRealPackedValue()
            return opened

        error = max(
            abs(x / clients - sum(column) / clients)
            for x, *column in zip(decrypt(), *updates)  # noqa: B905
        )
        row = {
            "system": "openfhe",
            "parameters": "N={} [{}] public-key".format(
                degree, ",".join(map(str, [first, *[scale] * levels]))
            ),
            "clients": clients,
            "values": values,
            "threads": 1,
            "bytes_per_value": sum(map(len, contributions[0])) / values,
            "scale_bits": scale,
            "largest_error": error,
            "precise": error <= step,
            "python": platform.python_version(),
        }
        for what, counted, work in (
            ("encrypt", values, encrypt),
            ("fold", values * clients, fold),
            ("decrypt", values, decrypt),
        ):
            out.append({"what": what, **row, **measure(counted, runs, work)})
    return out


def reason(error):
    """Say what does not import, and what the wheel brought instead."""
    said = f"does not import with Python {platform.python_version()}: {error}"
    try:
        installed = importlib.metadata.distribution("openfhe")
    except importlib.metadata.PackageNotFoundError:
        return said
    built = [p.name for p in installed.files or [] if ".so" in p.suffixes]
    compiled = ", ".join(name for name in built if name.startswith("openfhe"))
    return f"{said} (the wheel {installed.version} brings {compiled})"


def main():
    """Print the rows, or why there are none."""
    try:
        import openfhe
    except ImportError as error:
        print(reason(error))
        sys.exit(3)
    values, clients, runs = map(int, sys.argv[1:4])
    print(json.dumps(rows(openfhe, values, clients, runs, float(sys.argv[4]))))


if __name__ == "__main__":
    main()
