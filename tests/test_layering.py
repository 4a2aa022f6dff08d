"""The library stays tiny, its imports point one way, and nothing of one machine is in it.

Core: the files directly in bsr_lite/. Wings: studies, scale, course, each a folder. Modules are
named without the leading `bsr_lite.`, the package itself `__init__`."""

import ast
import functools
import io
import json
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bsr_lite"


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
CORE = [name for name, path in MODULES.items() if path.parent == PACKAGE]
WINGS = {"studies", "scale", "course"}
MAY_USE = {"course": {"studies"}}  # a wing's other wings
MATHS = {"losses", "dispersion", "metrics", "gold", "rloo"}
COMMENTED = ["batching", "step", "models", "train_rm", "train_rloo"]
every = pytest.mark.parametrize("name", MODULES)


@functools.cache
def tree(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


@functools.cache
def imported(name: str) -> frozenset[str]:
    """Modules of the package that a module imports, inside functions too."""
    package = ["bsr_lite", *MODULES[name].relative_to(PACKAGE).parent.parts]
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[:len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:  # `from . import losses` means the module
                inner = f"{base}.{alias.name}"
                found.add(inner if inner.removeprefix("bsr_lite.") in MODULES else base)
    ours = {full for full in found if full.split(".")[0] == "bsr_lite"}
    return frozenset(full.removeprefix("bsr_lite.") if "." in full else "__init__"
                     for full in ours)


def top_level(name: str) -> set[str]:
    """Packages of others that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - {"bsr_lite"}


# ---- imports -------------------------------------------------------------------------------------

def test_every_folder_of_code_is_a_known_wing():
    assert {name.split(".")[0] for name in set(MODULES) - set(CORE)} == WINGS


@every
def test_the_core_imports_no_wing_and_wings_not_each_other(name):
    own = name.split(".")[0]
    allowed = {own, *MAY_USE.get(own, ())} if own in WINGS else set()
    used = {other.split(".")[0] for other in imported(name)} & WINGS
    assert used <= allowed, f"{name} imports {sorted(used - allowed)}"


@functools.cache
def floor(name: str, above: tuple = ()) -> int:
    """1 of a module that imports nothing of the package, else one more than the highest below."""
    assert name not in above, f"imports in a circle: {' -> '.join([*above, name])}"
    return 1 + max((floor(other, (*above, name)) for other in imported(name)), default=0)


def test_imports_are_acyclic_and_the_core_has_at_most_8_floors():
    assert all(map(floor, MODULES))
    floors = {level: sorted(n for n in CORE if floor(n) == level)
              for level in sorted({floor(n) for n in CORE})}
    plan = "\n".join(f"{level}: {' '.join(names)}" for level, names in floors.items())
    assert max(floors) <= 8, f"the core has {max(floors)} floors:\n{plan}"


@pytest.mark.parametrize("name", [*sorted(MATHS), "errors"])
def test_maths_and_errors_import_nothing_of_the_package(name):
    assert imported(name) == set()


def test_plots_alone_imports_matplotlib():
    assert [name for name in MODULES if "matplotlib" in top_level(name)] == ["plots"]


def run_python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT,
                          check=True)


def test_importing_the_package_imports_nothing_else_and_does_nothing():
    code = ("import os, sys; before, place = set(sys.modules), (dict(os.environ), sys.path[:]); "
            "import bsr_lite; print(set(sys.modules) - before); "
            "assert place == (dict(os.environ), sys.path)")
    assert run_python("-c", code).stdout.strip() == "{'bsr_lite'}"
    rest = [node for node in tree("__init__").body if not (
        isinstance(node, ast.Assign) or (isinstance(node, ast.Expr)
                                         and isinstance(node.value, ast.Constant)))]
    assert rest == []  # a docstring and names, no statement that acts


def test_losses_need_torch_alone():
    code = ("import sys, bsr_lite.losses; "
            "print(sorted({'transformers', 'datasets', 'peft', 'matplotlib'} & set(sys.modules)))")
    assert run_python("-c", code).stdout.strip() == "[]"


# ---- size ----------------------------------------------------------------------------------------

@functools.cache
def size(name: str) -> tuple[int, int]:
    """(lines of code, comments): no blank line, comment or docstring is a line of code."""
    docstrings: set[int] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
                    and isinstance(first.value.value, str)):
                docstrings |= set(range(first.lineno, first.end_lineno + 1))
    lines, comments = set(), 0
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
              tokenize.ENDMARKER}
    text = MODULES[name].read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        comments += token.type == tokenize.COMMENT
        if token.type not in layout:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings), comments


@pytest.mark.parametrize(("what", "names", "most"), [("core", CORE, 2850),
                                                     ("core and wings", MODULES, 5270)])
def test_the_library_is_tiny(what, names, most):
    sizes = {name: size(name)[0] for name in names}
    total = sum(sizes.values())
    largest = sorted(sizes, key=sizes.get, reverse=True)[:10]
    assert total <= most, f"{what}: {total} lines of code; {[(n, sizes[n]) for n in largest]}"


@every
def test_files_and_functions_stay_short(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 300
    spans = {node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(tree(name))
             if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    long = {function: lines for function, lines in spans.items() if lines > 60}
    visible = {"train"} if name in ("train_rm", "train_rloo") else set()  # the one visible loop
    assert set(long) <= visible, long


@pytest.mark.parametrize("name", COMMENTED)
def test_where_tensors_change_shape_comments_say_why(name):
    lines, comments = size(name)
    assert comments >= 0.1 * lines, f"{comments} comments in {lines} lines of code"


# ---- commands ------------------------------------------------------------------------------------

COMMANDS = sorted(name for name, path in MODULES.items() if "def main(argv" in path.read_text())
HELP = """
import contextlib, io, json, runpy, sys
said = {}
for command in sys.argv[1:]:
    sys.argv, out, code = [command, "--help"], io.StringIO(), None
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module(f"bsr_lite.{command}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    loaded = {"transformers", "datasets", "peft", "matplotlib"} & set(sys.modules)
    said[command] = (code, out.getvalue(), sorted(loaded))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def helps():
    """What `--help` of every command says and what was imported by then, in one process."""
    return json.loads(run_python("-W", "ignore", "-c", HELP, *COMMANDS).stdout)


def test_every_command_is_listed():
    text = run_python("-m", "bsr_lite").stdout
    listed = re.findall(r"^  python -m bsr_lite\.(\S+)  +\w", text, re.M)
    assert sorted(listed) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_works_without_a_heavy_import(helps, command):
    code, text, loaded = helps[command]
    assert code == 0 and f"usage: python -m bsr_lite.{command} " in text and "--" in text
    assert loaded == [], f"imported by the --help of {command}, or of one that comes before it"


def test_the_formats_that_the_command_line_offers_are_those_that_are_read(helps):
    from bsr_lite.data import GROUP_FORMATS, PAIR_FORMATS
    from bsr_lite.studies.leaderboards import READERS
    offered = re.search(r"--format \{([^}]*)\}", helps["studies.evaluate"][1])[1]
    assert set(re.split(r",\s*", offered)) == {*GROUP_FORMATS, *PAIR_FORMATS, *READERS}


# ---- one machine ---------------------------------------------------------------------------------

def test_no_path_of_a_machine_in_any_tracked_file():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                           check=False).stdout.split()
    if not names:
        pytest.skip("not a git checkout")
    pattern = re.compile("/" + r"(home|root|tmp|Users|work)/\w")
    found = [n for n in names if (ROOT / n).exists()
             and not n.endswith((".gz", ".npz", ".png", ".safetensors"))
             and pattern.search((ROOT / n).read_text(encoding="utf-8"))]
    assert found == []
