"""The site of the docs: its links lead somewhere, it loads nothing, its pages are easy to read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mupl
from scripts import site_docstrings, site_sources
from scripts.measure_docs import mean_length, sentences
from tests.commands import ROOT

DOCS = ROOT / "docs"
MADE = {"gallery"}  # by `mupl reproduce`
PAGES = ["results/README", *sorted({page.stem for page in DOCS.glob("*.md")} - MADE)]
LONGEST_MEAN = 15  # words in a sentence
# What a browser fetches by itself, from another server
FETCHED = re.compile(r'<(?:script|img|iframe)[^>]* src="https?:|<link[^>]* href="https?:')


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does; a link that leads nowhere ends that with an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        assert not FETCHED.search(page.read_text()), page


def test_links_to_code_lead_to_pages(site: Path) -> None:
    assert 'href="source/conf/train.yaml.html"' in (site / "getting_started.html").read_text()
    assert "base_width: 64" in re.sub(
        "<[^>]*>", "", (site / "source/conf/train.yaml.html").read_text()
    )
    contributing = site / "source/CONTRIBUTING.html"
    assert 'href="../command_line.html#your-own-repository"' in contributing.read_text()


def test_code_in_a_table_shows_a_bar_as_a_bar(site: Path) -> None:
    page = (site / "command_line.html").read_text()
    assert "<code>model=mlp|gpt|resnet</code>" in page
    assert "\\|" not in page


def test_commands_below_a_list_are_shown_as_commands(site: Path) -> None:
    for page in site.rglob("*.html"):  # Python-Markdown adds indented lines to a list above them
        assert not re.search(r"<p>(python \S+\.py|mupl report) ", page.read_text()), page


def test_the_api_shows_every_public_name_with_its_example(site: Path) -> None:
    page = (site / "api.html").read_text()
    for name in mupl.__all__:
        assert f'id="mupl.{name}"' in page, name
    assert "<blockquote>" not in page  # which Markdown makes of >>> outside an example


def test_the_api_lists_every_public_name_once() -> None:
    listed = re.findall(r"(?m)^::: mupl\.(\w+)$", (DOCS / "api.md").read_text())
    assert sorted(listed) == sorted(mupl.__all__)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_for_whom_it_is_and_what_comes_next(name: str) -> None:
    title, for_whom, *_, last = (DOCS / f"{name}.md").read_text().strip().split("\n\n")
    assert title.startswith("# ")
    assert for_whom.startswith("*For ")
    assert last.startswith("Next: ")


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{name}.md" for name in PAGES)]
)
def test_sentences_are_short(page: str) -> None:
    assert mean_length((ROOT / page).read_text()) <= LONGEST_MEAN


def test_what_counts_as_a_sentence() -> None:
    page = "# Title\n\nOne `a b` two. [Three](x.md) four\nfive!\n\n| a | b |\n\n- six\n- seven\n"
    assert sentences(page) == ["One code two", "Three four five", "six", "seven"]
    assert mean_length("One two three. One.\n\n    code that is long\n") == 2


@pytest.mark.parametrize(
    ("page", "link", "where"),
    [
        ("docs/faq.md", "sweeps.md", "sweeps.md"),
        ("docs/faq.md", "../README.md", "source/README.md"),
        ("docs/faq.md", "../conf/train.yaml", "source/conf/train.yaml.md"),
        ("docs/faq.md", "../mupl/roles", "source/mupl/roles/index.md"),
        ("docs/faq.md", "results", "results/README.md"),
        ("docs/faq.md", "../benchmarks", "source/benchmarks/README.md"),
        ("docs/faq.md", "coord_check", "source/docs/coord_check/index.md"),
        ("README.md", "docs/faq.md", "faq.md"),
    ],
)
def test_where_the_site_has_a_file(page: str, link: str, where: str) -> None:
    target = site_sources._target(Path(page), link)
    assert target is not None
    assert site_sources._uri(target) == where


def test_a_link_that_leads_nowhere_or_out_of_the_repository_is_left_to_mkdocs() -> None:
    for link in ("no_page.md", "../../elsewhere.md"):
        assert site_sources._target(Path("docs/faq.md"), link) is None


def test_examples_of_docstrings_become_a_section() -> None:
    titled = "Add.\n\nExample:\n    >>> 1 + 1\n    2\n"
    assert site_docstrings.with_examples(titled) == titled.replace("Example:", "Examples:")
    untitled = site_docstrings.with_examples("Add.\n\n>>> 1 + 1\n2")
    assert untitled == "Add.\n\nExamples:\n    >>> 1 + 1\n    2"
