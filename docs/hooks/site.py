"""What the site has beside docs/: pages of the root, notebooks, links.

MkDocs calls these functions while it builds (``hooks`` of mkdocs.yml). Pages at
the root of the repository, such as THREAT_MODEL.md, appear under ``project/``;
committed notebooks are shown under ``notebooks/`` with the outputs that they
have; links from a page to files outside docs/ lead to where these are.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "examples" / "notebooks"
REPOSITORY = "https://github.com/cryptflow/cryptflow/blob/main/"

#: Pages of the root and where the site has them.
PROJECT = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "THREAT_MODEL.md": "project/threat-model.md",
}

_LINK = re.compile(r"(?<=\]\()(?!https?:|#|/|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

_log = logging.getLogger("mkdocs.hooks.site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leave out of the navigation those notebooks that are not there."""

    def kept(entry: Any) -> bool:
        path = next(iter(entry.values())) if isinstance(entry, dict) else entry
        stem = str(path).removeprefix("notebooks/").removesuffix(".md")
        return (
            not str(path).startswith("notebooks/")
            or stem == "index"
            or (NOTEBOOKS / f"{stem}.ipynb").exists()
        )

    for section in config.nav:
        for name, entries in section.items():
            section[name] = [e for e in entries if kept(e)]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root and the notebooks."""
    for name, path in PROJECT.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=_moved(text, name, path)))
    entries = []
    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        title, about = _add(notebook, files, config)
        entries.append(f"- [{title}]({notebook.stem}.md): {about}")
    index = "\n".join([_INDEX, *entries, ""])
    files.append(File.generated(config, "notebooks/index.md", content=index))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Let links that leave docs/ lead to the page or the repository."""
    source = page.file.src_uri
    if not source.startswith(("project/", "notebooks/")):
        markdown = _moved(markdown, f"docs/{source}", source)
    for path in re.findall(re.escape(REPOSITORY) + r"([^)#\s]+)", markdown):
        if not (ROOT / path).exists():
            _log.warning("%s links to %s, which the repository has not", source, path)
    return markdown


_INDEX = """# Notebooks

Each runs from top to bottom in under two minutes on two cores, without network,
and is shown here as it ran: `pip install '.[notebooks]'` in a checkout
brings what they import; open them from `examples/notebooks/` in the editor or
Jupyter that you have.
"""


def _moved(text: str, origin: str, page: str) -> str:
    """Return text with links relative to origin made relative to page."""
    at = posixpath.dirname(page)

    def link(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), found[1]))
        anchor = found[2] or ""
        if target in PROJECT:
            target = PROJECT[target]
        elif target == "examples/notebooks":
            target = "notebooks/index.md"
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        elif target.startswith("examples/notebooks/") and target.endswith(".ipynb"):
            stem = posixpath.basename(target).removesuffix(".ipynb")
            there = (NOTEBOOKS / f"{stem}.ipynb").exists()
            target = f"notebooks/{stem if there else 'index'}.md"
        else:
            return REPOSITORY + target + anchor
        return posixpath.relpath(target, at or ".") + anchor

    return _LINK.sub(link, text)


def _joined(outputs: list[Any]) -> list[Any]:
    """Return outputs with a stream's pieces, however it was cut, as one."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if "name" in output and last.get("name") == output["name"]:
            last["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _add(notebook: Path, files: Files, config: MkDocsConfig) -> tuple[str, str]:
    """Add one notebook's page and pictures; return its title and first words."""
    content = nbformat.reads(notebook.read_text(encoding="utf-8"), as_version=4)
    stem = notebook.stem
    for cell in content.cells:
        if "outputs" in cell:
            cell["outputs"] = _joined(cell["outputs"])
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _ANSI.sub("", output["text"])
    resources = {"output_files_dir": stem}
    text, extra = MarkdownExporter().from_notebook_node(content, resources=resources)
    for path, data in extra["outputs"].items():
        uri = f"notebooks/{path}"
        files.append(File.generated(config, uri, content=data))
    # Tables that objects draw of themselves come as HTML with style elements.
    text = re.sub(r"<style scoped>.*?</style>", "", text, flags=re.S)
    page = f"notebooks/{stem}.md"
    text = _moved(text, f"examples/{page}", page)
    text = text.replace(f"]({REPOSITORY}examples/notebooks/{stem}/", f"]({stem}/")
    source = f"{REPOSITORY}examples/notebooks/{notebook.name}"
    title, _, rest = text.lstrip().partition("\n")
    note = f"\n!!! note\n    This is [{notebook.name}]({source}), as it ran.\n\n"
    files.append(File.generated(config, page, content=title + "\n" + note + rest))
    first = rest.strip().split("\n\n", 1)[0].replace("\n", " ")
    about = re.sub(r"\]\([^)]*\)", "]", first).replace("[", "").replace("]", "")
    return title.lstrip("# ").strip(), about.split(". ")[0].rstrip(".") + "."
