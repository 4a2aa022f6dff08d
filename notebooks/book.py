"""The lessons as one static site: python notebooks/book.py [FOLDER]; by default runs/book.

Sphinx with MyST-NB reads the built notebooks as they are and executes nothing. Pages are README.md,
this folder's README and lessons, and whatever these link to. A warning of Sphinx is an error, and
so is a link or a picture that leads nowhere. To read the site takes no network: one file of MathJax
goes with it. `make book` installs what this needs (group `book` of pyproject.toml).
"""

import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parents[1]
LESSONS = sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))
MATHJAX = "mathjax/static/mathjax/es5/tex-svg.js"  # of the package; needs no fonts
CHAPTERS = ["notebooks/README", *(f"notebooks/{p.stem}" for p in LESSONS), "data/README",
            "data/runs/LOG"]
CONTENTS = "\n\n```{toctree}\n:hidden:\n" + "\n".join(CHAPTERS) + "\n```\n"
STYLE = """
div.cell_output, div.output { overflow-x: auto }
table.dataframe { font-size: 85% }
div.highlight pre { font-size: 74% }
mjx-container[jax="SVG"][display="true"] { overflow-x: auto; overflow-y: hidden }
"""
OPTIONS = {"project": "bsr_lite", "html_title": "bsr_lite", "html_theme": "furo",
           "extensions": ["myst_nb"], "nb_execution_mode": "off", "html_copy_source": False,
           "nb_render_markdown_format": "myst",
           "myst_enable_extensions": ["dollarmath", "amsmath"], "myst_heading_anchors": 3,
           "html_static_path": ["_static"], "html_css_files": ["book.css"],
           "mathjax_path": "tex-svg.js"}


def linked(page: Path) -> list[Path]:
    """Files of the repository that a page in Markdown links to."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)  # code has brackets, too
    found = re.findall(r"\]\(([^)#\s]+)", text)
    return [(page.parent / name).resolve() for name in found if "://" not in name]


def as_page(path: Path) -> str:
    """A page as Sphinx takes it: README.md is the first one, and a table gets a title."""
    text, name = path.read_text(), path.relative_to(ROOT).with_suffix("")
    if path == ROOT / "README.md":
        return text + CONTENTS
    if not text.startswith("# "):
        text = f"# {path.parent.name}\n\n{text}"
    aside = "" if str(name) in CHAPTERS else "---\norphan: true\n---\n\n"
    return aside + text.replace("../README.md", "../index.md")


def stage(source: Path) -> list[Path]:
    """Copy all pages, and all that they link to, into `source`.  Raises: FileNotFoundError."""
    written = [ROOT / f"{name}.md" for name in CHAPTERS]
    waiting = [ROOT / "README.md", *filter(Path.exists, written), *LESSONS]
    done: list[Path] = []
    while waiting:
        path = waiting.pop(0)
        if path in done or path == ROOT / "notebooks":
            continue
        done.append(path)
        first = path == ROOT / "README.md"
        target = source / ("index.md" if first else path.relative_to(ROOT))
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(as_page(path))
            waiting += linked(path)
        else:
            shutil.copy(path, target)
    return done


class Page(HTMLParser):
    """What a page of the site names: its own anchors, links, files that it loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.add(found.get("id"))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        if tag in ("img", "script") and found.get("src"):
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loads.append(found["href"])


def faults(site: Path) -> list[str]:
    """Every link and picture of the site that leads nowhere, and all that takes a network."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for name in page.links + page.loads:
            parts = urlsplit(name)
            where = f"{path.relative_to(site.resolve())}: {name}"
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                found += [f"{where} takes a network"] * (name in page.loads)
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{where} is no file")
            elif parts.fragment and target in pages and unquote(
                    parts.fragment) not in pages[target].ids:
                found.append(f"{where} has no such place")
    for lesson in LESSONS:
        cells = json.loads(lesson.read_text())["cells"]
        outputs = [out for cell in cells for out in cell.get("outputs", ())]
        drawn = sum("image/png" in out.get("data", {}) for out in outputs)
        page = (site / "notebooks" / f"{lesson.stem}.html").resolve()
        shown = sum("_images/" in name for name in pages[page].loads) if page in pages else 0
        found += [f"{lesson.stem}: {shown} of {drawn} figures"] * (shown < drawn)
    return found


def build(folder: Path) -> int:
    """The site in `folder`/html; the exit status, 0 where all is well."""
    from sphinx.cmd.build import build_main
    source, site = folder / "source", folder / "html"
    shutil.rmtree(folder, ignore_errors=True)
    stage(source)
    static = source / "_static"
    static.mkdir()
    (static / "book.css").write_text(STYLE)
    shutil.copy(Path(find_spec("mathjax").origin).parents[1] / MATHJAX, static)
    lines = [f"{name} = {value!r}" for name, value in OPTIONS.items()]
    (source / "conf.py").write_text("\n".join(lines))
    status = build_main(["-q", "-W", "--keep-going", "-d", str(folder / "doctrees"),
                         str(source), str(site)])
    wrong = faults(site) if not status else []
    print("\n".join(wrong) or f"open {os.path.relpath(site)}/index.html" * (not status))
    return status or int(bool(wrong))


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "runs/book"))
