"""Hooks of MkDocs: links from the docs to files of the repository lead to pages of the site.

On GitHub a page of docs/ links to code by a relative path, such as `../mupl/roles`. MkDocs
publishes docs/ alone. So each such target gets a page below `source/`: a Markdown file as it is,
any other file as code, a folder as a list of what it holds.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
SOURCES = "source"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")  # the path in [text](path#heading)
CODE_IN_TABLE = re.compile(r"(?<=`)[^`\n]*\\\|[^`\n]*(?=`)")
NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add a page for each file and folder that a page links to and MkDocs does not publish."""
    waiting = [Path("docs", file.src_uri) for file in files if file.src_uri.endswith(".md")]
    added = set()
    while waiting:
        page = waiting.pop()
        for target in _linked(page):
            if target in added or _is_published(target):
                continue
            added.add(target)
            files.append(File.generated(config, _uri(target), content=_content(target)))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let the links of a page lead to where their targets are on the site.

    Code in a table has `\\|` for GitHub, which Python-Markdown would show as it is.
    """
    uri = page.file.src_uri
    here = Path(uri).relative_to(SOURCES) if uri.startswith(f"{SOURCES}/") else Path("docs", uri)
    if not (ROOT / here).is_file() or here.suffix != ".md":
        return markdown  # a page of code or of a folder

    def moved(link: re.Match[str]) -> str:
        target = _target(here, link[1])
        if target is None:
            return link[0]  # leads nowhere: MkDocs says so
        return os.path.relpath(_uri(target), Path(uri).parent)

    unescaped = CODE_IN_TABLE.sub(lambda code: code[0].replace("\\|", "|"), markdown)
    return LINK.sub(moved, unescaped)


def _is_published(target: Path) -> bool:
    """Return whether MkDocs publishes it by itself: each file of docs/."""
    return target.parts[0] == "docs" and (ROOT / target).is_file()


def _linked(page: Path) -> Iterator[Path]:
    """Iterate over the files and folders that a page links to, as paths in the repository."""
    for link in LINK.findall((ROOT / page).read_text()):
        target = _target(page, link)
        if target is not None:
            yield target


def _target(page: Path, link: str) -> Path | None:
    """Return the path in the repository that a link on a page leads to; None if it is not there.

    A folder with a README is that README, as on GitHub.
    """
    target = Path(os.path.normpath(page.parent / link))
    if target.parts[0] == ".." or not (ROOT / target).exists():
        return None
    readme = target / "README.md"
    return readme if (ROOT / readme).exists() else target


def _uri(target: Path) -> str:
    """Return where the site has a file or folder of the repository, as MkDocs names its sources."""
    if _is_published(target):
        return str(target.relative_to("docs"))
    page = Path(SOURCES, target)
    if (ROOT / target).is_dir():
        return str(page / "index.md")
    return str(page) if target.suffix == ".md" else f"{page}.md"


def _content(target: Path) -> str:
    """Return the Markdown of the page of a file or folder that MkDocs does not publish."""
    path = ROOT / target
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.name != "__pycache__")
        return f"{NOT_SEARCHED}# {target}\n\n" + "".join(f"- `{name}`\n" for name in names)
    text = path.read_text()
    if target.suffix == ".md":
        return NOT_SEARCHED + text
    language = LANGUAGES.get(target.suffix, "text")
    return f"{NOT_SEARCHED}# {target}\n\n``````{language}\n{text}\n``````\n"
