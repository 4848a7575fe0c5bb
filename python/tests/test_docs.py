"""The documentation: its snippets run, its site builds, its pages are current.

All blocks of Python of a page are one program, run in a folder of its own. A
block that is only an outline says why it is not run, in a comment before it:
``<!-- not run: reason -->``.
"""

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>.+?) -->\n+)?^```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```",
    re.M | re.S,
)


def blocks(page):
    """Return the blocks of Python of a page, and why some are not run."""
    found = [m for m in BLOCK.finditer(page.read_text()) if m["kind"] == "python"]
    return [m["text"] for m in found if not m["why"]], [m["why"] for m in found]


RUN = [p for p in PAGES if blocks(p)[0]]


@pytest.mark.parametrize("page", RUN, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_snippets_of_a_page_run(page, tmp_path):
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks(page)[0]))
    # Three clients on two cores: threads of their own would only get in the way.
    single = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    env = {**os.environ, "MPLBACKEND": "Agg", **single}
    env.pop("CRYPTFLOW_PROFILE", None)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program.name],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_most_snippets_run():
    """Outlines are the exception, and every one has its reason."""
    run = sum(len(blocks(p)[0]) for p in PAGES)
    left = [why for p in PAGES for why in blocks(p)[1] if why]
    assert run >= 20 and len(left) <= 5
    assert all(len(why) > 10 for why in left)


def test_the_command_line_page_is_what_the_command_says():
    spec = importlib.util.spec_from_file_location("cli", DOCS / "hooks" / "cli.py")
    cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    assert cli.PAGE.read_text() == cli.page(), "make docs-cli"


class Requests(HTMLParser):
    """What a browser would fetch to show a page."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("img", "script", "iframe", "source", "video") and "src" in given:
            self.found.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.found.append(given["href"])
        if given.get("data-md-component") == "source":
            self.found.append(given["href"])  # whose host a script asks for figures


def test_the_site_builds_without_a_broken_link_or_a_foreign_request(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        parser = Requests()
        parser.feed(page.read_text())
        for url in parser.found:
            assert not re.match(r"(?:https?:)?//", url), (page, url)
    for style in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//", style.read_text()), style
