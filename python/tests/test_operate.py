"""The operator's page is followed to the letter, on one machine.

Hosts become loopback addresses, system folders become folders of the test, and
the services are started by the lines that the page gives systemd.
"""

import os
import re
import shlex
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

import cryptflow
from cryptflow.__main__ import find

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "operate.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def place(text, folder, ports):
    """Return a block with this machine's addresses and folders."""
    text = text.replace("/usr/local/bin/cryptflow", find())
    for there in ("/etc/", "/var/lib/"):
        text = text.replace(there, f"{folder}{there}")
    for host in ("kms", "sum"):
        text = text.replace(f"--host {host}.hospitals.example", "--host 127.0.0.1")
    text = re.sub(r"[\w.]+:(744\d)", lambda m: f"127.0.0.1:{ports[m[1]]}", text)
    key = folder / "admin_key"
    return text.replace("ADMIN_KEY", key.read_text().strip()) if key.exists() else text


def answers(address):
    try:
        with urllib.request.urlopen(f"http://{address}/healthz") as reply:
            return reply.status == 200
    except OSError:
        return False


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Follow the page; return the folder and what each block of bash printed."""
    folder = tmp_path_factory.mktemp("operate")
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    ports = {f"744{3 + i}": s.getsockname()[1] for i, s in enumerate(held)}
    for s in held:
        s.close()
    env = {k: v for k, v in os.environ.items() if not k.startswith("CRYPTFLOW_")}
    env["PATH"] = f"{Path(find()).parent}{os.pathsep}{env['PATH']}"
    services, printed = [], []
    for made in ("etc/cryptflow", "var/lib/cryptflow", "var/lib/cryptflow-kek"):
        (folder / made).mkdir(parents=True)
    try:
        for kind, raw in BLOCK.findall(PAGE.read_text()):
            text = place(raw, folder, ports)
            if kind == "toml":
                path = folder / re.match(r"# (\S+)\.toml", text)[1]
                path = path.with_name(path.name + ".toml")
                path.write_text(text)
                if path.parent.name == "cryptflow":
                    for file in (folder / path.stem).iterdir():
                        (path.parent / file.name).write_bytes(file.read_bytes())
            elif kind == "ini":
                start = shlex.split(re.search(r"^ExecStart=(.*)", text, re.M)[1])
                services.append(subprocess.Popen(start, env=env))
            else:
                if "doctor" in text and "alice" in text:
                    until = time.monotonic() + 60
                    for port in (ports["7445"], ports["7446"]):
                        while not answers(f"127.0.0.1:{port}"):
                            assert time.monotonic() < until
                            assert all(s.poll() is None for s in services)
                done = subprocess.run(
                    ["bash", "-ec", text],
                    cwd=folder,
                    env=env,
                    capture_output=True,
                    text=True,
                    timeout=600,
                    check=False,
                )
                assert done.returncode == 0, text + done.stdout + done.stderr
                printed.append(done.stdout)
        yield folder, printed
    finally:
        for service in services:
            service.terminate()
        ends = [service.wait(30) for service in services]
    assert ends == [0, 0]


def test_following_the_page_gives_services_and_a_task(page):
    _, printed = page
    text = "\n".join(printed)
    assert "✗" not in text and text.count("✓ key service") == 2
    assert "first is signed by the trusted admin and enrols ward-7" in text
    assert re.search(r"verified: \d+ records", printed[-1])
    assert "task-created" in printed[-1]


def test_clients_of_the_page_average(page, together):
    folder, _ = page

    def client(ward):
        profile = (folder / "ward-7" / "client.toml").read_text()
        mine = folder / ward / "mine.toml"
        mine.write_text(profile.replace("ward-7", ward))
        update = np.full(8, int(ward[-1]), np.float32)
        with cryptflow.connect(mine) as c:
            return c.average(update, num_examples=10)

    wards = ("ward-7", "ward-8", "ward-9")
    for mean, report in together(*[lambda w=w: client(w) for w in wards]):
        assert np.abs(mean - 8).max() <= report.stated_bound + 1e-6


def test_secrets_are_readable_by_their_owner_only(page):
    folder, _ = page
    # Unlike rglob, walk passes over folders of contributions that go meanwhile.
    files = (Path(at, name) for at, _, names in os.walk(folder) for name in names)
    secret = [p for p in files if p.suffix in (".key", ".kek", ".pem")]
    written = [p for p in secret if "etc" not in p.relative_to(folder).parts]
    assert len(written) >= 9
    assert not any(p.stat().st_mode & 0o077 for p in written)
