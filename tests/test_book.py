"""The site of `make book`: all that goes into it is there, and a link that leads nowhere is found.
It is built where the group `book` of pyproject.toml is installed."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def book():
    spec = importlib.util.spec_from_file_location("book", ROOT / "notebooks/book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_and_all_that_they_link_to_is_staged(book, tmp_path):
    done = book.stage(tmp_path)  # a link to a file that is not there raises
    assert {ROOT / "README.md", ROOT / "notebooks/README.md", *book.LESSONS} <= set(done)
    first = (tmp_path / "index.md").read_text()
    assert "{toctree}" in first and all(f"\n{name}\n" in first for name in book.CHAPTERS)
    assert all((tmp_path / f"notebooks/{p.name}").exists() for p in book.LESSONS)
    assert "../README.md" not in (tmp_path / "notebooks/README.md").read_text()


def test_a_link_or_a_picture_that_leads_nowhere_is_found(book, tmp_path, monkeypatch):
    monkeypatch.setattr(book, "LESSONS", [])
    (tmp_path / "a.html").write_text(
        '<h1 id="here"></h1><a href="#here"></a><a href="#gone"></a><a href="b.html#x"></a>'
        '<a href="https://example.org">far</a><img src="c.png"><script src="https://e.org/m.js">')
    (tmp_path / "b.html").write_text('<p id="x"></p><a href="a.html#here"></a>')
    assert book.faults(tmp_path) == ["a.html: #gone has no such place", "a.html: c.png is no file",
                                     "a.html: https://e.org/m.js takes a network"]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(book, tmp_path):
    for name in ("sphinx", "myst_nb", "furo", "mathjax"):
        pytest.importorskip(name, reason="make book installs it")
    assert book.build(tmp_path / "book") == 0
