"""The notebooks are what the library is for: pairs agree, nothing in them is of one machine, and
they stay readable. That they run is CI's other half (`make test` executes them)."""

import importlib.util
import re
import statistics
from pathlib import Path

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9]*.py"))
SOLUTIONS = sorted(FOLDER.glob("solutions/[0-9]*.py"))
every = pytest.mark.parametrize("source", LESSONS + SOLUTIONS, ids=lambda p: "-".join(p.parts[-2:]))
lesson = pytest.mark.parametrize("source", LESSONS, ids=lambda p: p.stem)


def built(source: Path):
    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


def code_lines(cell) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def test_every_lesson_has_a_built_notebook_and_solutions():
    assert LESSONS and [p.name for p in LESSONS] == [p.name for p in SOLUTIONS]
    assert {p.with_suffix("") for p in LESSONS + SOLUTIONS} == {
        p.with_suffix("") for p in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts}


def test_a_section_of_another_lesson_that_is_named_exists():
    sections = {p.name[:2]: set(re.findall(r"^# ## (\d+)\.", p.read_text(), re.M)) for p in LESSONS}
    named = 0
    for path in (*LESSONS, *SOLUTIONS, FOLDER / "README.md", ROOT / "README.md"):
        text = re.sub(r"\n(?:# )?", " ", path.read_text())
        for number, *wanted in re.findall(r"\b(0[1-9]|1[01])(?:,| \() ?Sections? (\d+)"
                                          r"(?:(?:,| and| to) (\d+))?", text):
            named += 1
            assert set(wanted) - {""} <= sections[number], f"{path.name}: {number}, {wanted}"
    assert named > 10


def test_every_lesson_asks_five_questions_and_says_what_to_watch():
    for path in LESSONS:
        asked = path.read_text().partition("# ## Check yourself\n")[2].partition("<details>")[0]
        assert re.findall(r"^# (\d)\. ", asked, re.M) == list("12345"), path.name
        assert path.read_text().count("# ## What to watch, what to vary\n") == 1, path.name


@every
def test_pair_agrees(source):
    """Edit the .py, then run `make notebooks`: the .ipynb is never edited by hand."""
    text, notebook = jupytext.read(source).cells, built(source).cells
    assert [(c.cell_type, c.source) for c in text] == [(c.cell_type, c.source) for c in notebook]


@every
def test_outputs_are_complete_and_of_no_machine(source):
    notebook = built(source)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, len(code) + 1))  # built in one go
    outputs = [o for c in code for o in c.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    text = source.with_suffix(".ipynb").read_text()
    assert not re.search("/" + r"(home|root|tmp|Users|work)/\w", text)
    assert "http" not in "".join(str(o.get("text", "")) for o in outputs)
    assert len(text) < 500_000


@every
def test_cells_are_short(source):
    cells = built(source).cells
    sizes = [code_lines(c) for c in cells if c.cell_type == "code"]
    assert max(sizes) <= 40 and statistics.median(sizes) <= 8, sizes
    words = {c.source[:40]: len(c.source.split()) for c in cells if c.cell_type == "markdown"}
    assert max(words.values()) <= 120, {k: n for k, n in words.items() if n > 120}


@lesson
def test_lesson_has_its_parts(source):
    cells = built(source).cells
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    code = [c.source for c in cells if c.cell_type == "code"]
    assert cells[0].source.startswith("# ") and cells[0].source.split("\n")[0].endswith("?")
    checks = [c for c in code if re.search(r"^\s*assert .*?,\s*\(?\s*f?\"", c, re.M | re.S)
              or "assert_close" in c]
    assert len(checks) >= 3, "every lesson proves its claims"
    assert "Eq." in prose and "<details>" in prose and "## Exercises" in prose
    figures = sum("image/png" in o.get("data", {}) for c in cells if c.cell_type == "code"
                  for o in c.outputs)
    assert figures >= 2 and len(re.findall("What to see", prose)) >= 2


@lesson
def test_exercises_are_checked_and_left_to_the_reader(source):
    code = "\n".join(c.source for c in built(source).cells if c.cell_type == "code")
    called = re.findall(r"checks\.(check_\w+)\(", code)
    solved = (FOLDER / "solutions" / source.name).read_text()
    assert len(called) >= 3 and called == re.findall(r"assert checks\.(check_\w+)\(", solved)
    text = "".join(o.get("text", "") for c in built(source).cells if c.cell_type == "code"
                   for o in c.outputs)
    assert text.count("not attempted yet") == len(called)


@every
def test_rows_follow_the_model_to_its_device(source):
    """`pack` makes its tensors on the CPU; a model is where `load_reward_model` put it."""
    code = "\n".join(c.source for c in jupytext.read(source).cells if c.cell_type == "code")
    fed = re.findall(r"(?:model|ours|bt|bsr|last_hidden)\(pack\(.*", code)
    assert [line for line in fed if ".to(model.device)" not in line] == []
    assert "dtype=\"bfloat16\"" not in code  # not every machine computes in it


def test_table_lists_every_lesson():
    table = (FOLDER / "README.md").read_text()
    for source in LESSONS:
        assert f"({source.stem}.ipynb)" in table


HEADER = "# ---\n# jupyter:\n#   kernelspec:\n#     display_name: P\n#     name: python3\n# ---\n\n"


@pytest.fixture
def build():
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build


@pytest.mark.slow
def test_building_twice_gives_the_same_bytes(build, tmp_path):
    source = tmp_path / "09_example.py"
    source.write_text(HEADER + "# %% [markdown]\n# # Text\n\n# %%\nimport sys\n"
                      "for i in range(50):\n    print(i, flush=True)\n1 + 1\n")
    first = build(source).read_bytes()
    assert build(source).read_bytes() == first
    code = built(source).cells[1]
    assert code.id == "09_example-001" and code.outputs[1]["data"]["text/plain"] == "2"
    assert code.outputs[0].text.startswith("0\n1\n") and len(code.outputs) == 2


@pytest.mark.slow
def test_a_cell_that_raises_stops_the_build_and_leaves_the_old_page(build, tmp_path):
    from nbclient.exceptions import CellExecutionError
    source = tmp_path / "09_example.py"
    source.write_text(HEADER + "# %%\n1 / 0\n")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        build(source)
    assert not source.with_suffix(".ipynb").exists()


def test_reading_times_are_those_of_the_lessons():
    """150 words and 20 lines of code a minute; what follows `Second reading` is counted apart."""
    table = (FOLDER / "README.md").read_text()
    for source in LESSONS:
        minutes = [0.0, 0.0]
        second = False
        for cell in jupytext.read(source).cells:
            second = second or cell.source.startswith("## Second reading")
            minutes[second] += (code_lines(cell) / 20 if cell.cell_type == "code"
                                else len(cell.source.split()) / 150)
        said = re.search(rf"\({source.stem}\.ipynb\).*?\| (\d+) \+ (\d+) min \|", table)
        assert all(abs(m - int(n)) <= 2 for m, n in zip(minutes, said.groups(), strict=True)), (
            source.stem, minutes)
        assert second and minutes[0] <= 30 and sum(minutes) <= 46, (source.stem, minutes)


@lesson
def test_the_symbols_of_a_lesson_are_in_the_table(source):
    """Greek letters of its formulas."""
    table = (FOLDER / "README.md").read_text().partition("## Symbols")[2]
    prose = "\n".join(c.source for c in jupytext.read(source).cells if c.cell_type == "markdown")
    formulas = " ".join(re.findall(r"\$([^$]+)\$", prose))
    found = set(re.findall(r"\\(?:lambda|mu|sigma|Sigma|psi|beta|rho|delta|pi)\b", formulas))
    assert {name for name in found if name not in table} == set()
