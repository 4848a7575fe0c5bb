"""Build the Go extension and the Go command. Everything else is in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

from distutils.command.build_scripts import build_scripts  # isort: skip

ROOT = Path(__file__).parent.resolve()
WORK = ROOT / "build" / "gopy" / sys.implementation.cache_tag
MODULE = "github.com/cryptflow/cryptflow"


def require_go():
    """Stop with one sentence unless Go 1.26 or newer is on PATH."""
    want = "building cryptflow from source needs Go 1.26 or newer on PATH: install it"
    if not shutil.which("go"):
        raise SystemExit(want)
    # Outside the checkout, so that go.mod does not make an old go fetch a new one.
    found = subprocess.run(
        ["go", "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False
    ).stdout.strip()
    version = re.match(r"go(\d+)\.(\d+)", found)
    if not version or (int(version[1]), int(version[2])) < (1, 26):
        raise SystemExit(f"{want} (found {found or 'none'})")


def require_c():
    """Stop with one sentence unless a C compiler and Python's header are there."""
    compiler = os.environ.get("CC", "gcc").split()[0]
    if not shutil.which(compiler):
        raise SystemExit(
            f"building cryptflow from source needs the C compiler {compiler}: "
            "install it (Debian: apt-get install build-essential)"
        )
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        raise SystemExit(
            f"building cryptflow from source needs {header}: "
            "install Python's headers (Debian: apt-get install python3-dev)"
        )


def run(*cmd, cwd=ROOT, **env):
    """Run a command with the pinned Go settings."""
    require_go()
    # pie compiles packages the way c-shared does, so gopy's own check build is reused.
    flags = "-trimpath -buildvcs=false -buildmode=pie"
    env = {**os.environ, "GOFLAGS": flags, "CGO_ENABLED": "1", **env}
    print("+", *cmd, flush=True)
    subprocess.run([str(c) for c in cmd], cwd=cwd, env=env, check=True)


def settle():
    """Make what gopy wrote the same on every run and every machine.

    gopy writes functions in random order, notes its own command line, and copies
    LDSHARED, which for some interpreters holds an rpath into their own directory.
    """
    main, script = WORK / "native.go", WORK / "build.py"
    text = re.sub(r"(?m)^#cgo LDFLAGS:.*$", "#cgo LDFLAGS: -shared", main.read_text())
    text = re.sub(r"(?m)^gopy gen .*$", "", text)
    head, *functions = re.split(r"(?m)^(?=//export bridge_)", text)
    main.write_text(head + "".join(sorted(f.strip() + "\n\n" for f in functions)))
    lines = script.read_text().splitlines(keepends=True)
    bound = sorted(line for line in lines if "(mod, 'bridge_" in line)
    fixed = iter(bound)
    script.write_text("".join(next(fixed) if line in bound else line for line in lines))


class BuildGo(build_ext):
    """Bind go/bridge with gopy and link it into one extension module."""

    def build_extension(self, ext):
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if prebuilt := os.environ.get("CRYPTFLOW_NATIVE_LIBRARY"):
            shutil.copy2(prebuilt, target)
            return
        require_c()
        shutil.rmtree(WORK, ignore_errors=True)
        run(
            "go", "tool", "gopy", "gen", f"-vm={sys.executable}", f"-output={WORK}",
            "-name=native", "-no-make", "-dynamic-link=true", f"{MODULE}/go/bridge",
        )  # fmt: skip
        settle()
        run("go", "tool", "goimports", "-w", "native.go", cwd=WORK)
        run(
            "go", "tool", "cgo", "-objdir", "obj", "-exportheader", "native_go.h",
            "--", f"-I{sysconfig.get_path('include')}", "native.go", cwd=WORK,
        )  # fmt: skip
        shutil.rmtree(WORK / "obj")
        run(sys.executable, "build.py", cwd=WORK)
        exports = WORK / "native.map"
        exports.write_text("{ global: PyInit__native; local: *; };\n")
        version = f"-X {MODULE}/go/bridge.version={self.distribution.get_version()}"
        export = f"""'-extldflags="-Wl,--version-script={exports}"'"""
        run(
            "go", "build", "-buildmode=c-shared", "-o", "native.so",
            "-ldflags", f"-s -w -buildid= {version} {export}", ".", cwd=WORK,
        )  # fmt: skip
        shutil.copy2(WORK / "native.so", target)


class BuildCommand(build_scripts):
    """Install the Go command itself; distutils can only copy text scripts."""

    def get_source_files(self):
        return []

    def copy_scripts(self):
        out = Path(self.build_dir).resolve() / "cryptflow"
        out.parent.mkdir(parents=True, exist_ok=True)
        ldflags = f"-s -w -X main.version={self.distribution.get_version()}"
        run(
            "go", "build", "-buildmode=exe", "-ldflags", ldflags, "-o", out,
            "./go/cmd/cryptflow", CGO_ENABLED="0",
        )  # fmt: skip
        return [str(out)], [str(out)]


setup(
    ext_modules=[Extension("cryptflow_py._native", sources=[])],
    scripts=["go/cmd/cryptflow"],
    cmdclass={"build_ext": BuildGo, "build_scripts": BuildCommand},
)
