"""What pages say about commands, targets, extras and files is so."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from cryptflow.__main__ import find

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(p for p in sorted(DOCS.rglob("*.md")) if p.name != "cli.md"),
]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
SHELLS = ("", "sh", "bash", "console")


def name(page):
    return str(page.relative_to(ROOT))


def said(page):
    """Return what a page tells a reader to type: lines of shells, inline code."""
    text = page.read_text()
    lines = []
    for kind, block in FENCE.findall(text):
        if kind in SHELLS:
            lines += block.replace("\\\n", " ").splitlines()
    prose = FENCE.sub("", text)
    lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]+)`", prose)]
    return [line.strip().removeprefix("$ ") for line in lines]


def commands():
    """Return the flags of each command, from the page that a test keeps current."""
    page = (DOCS / "reference" / "cli.md").read_text()
    parts = re.split(r"^## cryptflow ?", page, flags=re.M)[1:]
    flags = {p.split("\n", 1)[0]: set(re.findall(r"--[\w-]+", p)) for p in parts}
    return flags | {"": {"--help", "--version"}, "completion": {"--help"}}


def unknown(line, known):
    """Return what a line that begins with cryptflow has that the command has not."""
    words = re.split(r"[|&;#…]", line)[0].split()[1:]
    path = []
    while words and " ".join([*path, words[0]]) in known:
        path.append(words.pop(0))
    if not path and words and not words[0].startswith("--"):
        return words[0]
    used = {re.split(r"[=\]]", w.lstrip("["))[0] for w in words if w.startswith("--")}
    return ", ".join(sorted(used - known[" ".join(path)] - {"--help"}))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_targets_extras_and_files_of_a_page_exist(page):
    known = commands()
    assert {"up", "task create", "audit verify"} <= set(known)
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"])
    for line in said(page):
        if re.match(r"cryptflow [a-z-]", line):
            assert not unknown(line, known), line
        if found := re.match(r"make ([a-z][a-z-]*)", line):
            assert found[1] in targets, line
        if line.startswith("pip install"):
            for chosen in re.findall(r"(?:cryptflow|\.)\[([\w,]+)\]", line):
                assert set(chosen.split(",")) <= extras, line
        for path in re.findall(
            r"(?<![\w/])(?:examples|docs|benchmarks)/[\w./-]+", line
        ):
            assert (ROOT / path.rstrip(".")).exists(), line


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_a_page_lead_somewhere_in_a_checkout(page):
    """The site's own check sees them only after its hooks have moved them."""
    prose = FENCE.sub("", page.read_text())
    for link in re.findall(r"\]\(([^)#\s]+)[^)\s]*\)", prose):
        if not link.startswith(("https:", "http:", "mailto:")):
            assert (page.parent / link).exists(), link


def test_a_command_that_is_not_there_is_noticed():
    known = commands()
    assert unknown("cryptflow upp --clients 3", known) == "upp"
    assert unknown("cryptflow up --clients 3 --port=0 &", known) == ""
    assert unknown("cryptflow audit verify FOLDER --keys K", known) == "--keys"


CONFIGURATIONS = [
    text
    for page in PAGES
    for kind, text in FENCE.findall(page.read_text())
    if kind == "toml" and re.match(r"# \S+\.toml", text)
]


def test_most_configurations_are_found():
    named = [re.match(r"# (\S+)\.toml", text)[1] for text in CONFIGURATIONS]
    assert {"kms", "aggregator", "client", "alice/admin"} <= set(named)


@pytest.mark.parametrize("text", CONFIGURATIONS, ids=lambda t: t.split("\n")[0][2:])
def test_a_configuration_has_only_keys_that_its_program_knows(text, tmp_path):
    """It is refused for its certificate, which is read after all keys."""
    program = re.match(r"# (?:\S*/)?(\w+)\.toml", text)[1]
    config = tmp_path / f"{program}.toml"
    filled = re.sub(r'"(?:…[^"]*|ADMIN_KEY)"', f'"{"11" * 32}"', text)

    def said():
        config.write_text(filled)
        command = [find(), program, "--config", config]
        if program in ("client", "admin"):
            command = [find(), "doctor", "--profile", config]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert ".crt: no such file" in said() and "did you mean" not in said()
    key = re.search(r"^(\w+) *=", filled, re.M)[1]
    filled = filled.replace(key, key + "x", 1)
    assert f'did you mean "{key}"' in said()


def test_the_pictures_are_what_their_program_draws():
    spec = importlib.util.spec_from_file_location(
        "pictures", DOCS / "hooks" / "pictures.py"
    )
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    for file, text in pictures.pictures().items():
        assert (pictures.FOLDER / file).read_text() == text, "docs/hooks/pictures.py"
