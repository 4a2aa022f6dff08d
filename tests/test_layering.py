"""Imports point one way, the library stays small, and nothing of one machine is in it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "bsr_lite").glob("*.py"))
MATHS = {"losses", "dispersion", "metrics", "gold", "rloo"}
LAYERS = [  # each may import from the rows above it
    {"cli"},
    MATHS | {"embedded", "rows", "card", "__init__", "__main__"},
    {"data", "batching", "runlog", "saving", "architectures"},
    {"scenarios", "models", "tokenization"},
    {"config", "policy"},
    {"distributed", "eval_rm", "tracking"},
    {"checkpoint", "training_data", "step", "generate", "merge", "rloo_config"},
    {"estimate"},
    {"dry_run", "token_budget"},
    {"train_rm", "gold_model"},
    {"frozen", "summary", "train_rloo", "best_of_n"},
    {"plots", "checks", "bench_rm"},
    {"checks_policy", "rloo_study", "bench_rloo", "bench_growth"},
    {"study", "bench"},
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name[9:] for a in node.names if a.name.startswith("bsr_lite."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bsr_lite"):
            yield node.module.partition(".")[2]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_imports_point_one_way(path):
    level = next((i for i, layer in enumerate(LAYERS) if path.stem in layer), None)
    assert level is not None, f"{path.stem} has no layer: add it"
    below = set().union(*LAYERS[:level])
    assert set(imported(path)) <= below


def test_plots_alone_imports_matplotlib():
    line = re.compile(r"^\s*(import|from) matplotlib", re.MULTILINE)
    users = {p.stem for p in FILES if line.search(p.read_text())}
    assert users == {"plots"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    long = {node.name: node.end_lineno - node.lineno + 1 for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > 50}
    assert set(long) <= {"train"}, long  # the one visible loop


def test_commands_are_listed_and_have_help_without_a_heavy_import():
    from bsr_lite.cli import COMMANDS
    commands = {p.stem for p in FILES if "def main(argv" in p.read_text()}
    assert commands == set(COMMANDS)
    listing = subprocess.run([sys.executable, "-m", "bsr_lite"], capture_output=True, text=True,
                             check=True).stdout
    for command in commands:
        assert f"bsr_lite.{command} " in listing
        done = subprocess.run([sys.executable, "-X", "importtime", "-m", f"bsr_lite.{command}",
                               "--help"], capture_output=True, text=True, check=True)
        assert "usage:" in done.stdout and "--" in done.stdout
        modules = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
        assert "argparse" in modules and not modules & {"torch", "numpy", "transformers", "yaml"}


def test_the_formats_that_the_command_line_offers_are_those_that_are_read():
    from bsr_lite.cli import FORMATS
    from bsr_lite.data import GROUP_FORMATS, PAIR_FORMATS
    assert set(FORMATS) == {*GROUP_FORMATS, *PAIR_FORMATS} - {"rm_bench"}  # it has its own option


def test_losses_need_torch_alone():
    code = ("import sys, bsr_lite.losses; "
            "print(sorted({'transformers', 'datasets', 'peft', 'matplotlib'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_path_of_a_machine_in_any_tracked_file():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                           check=False).stdout.split()
    if not names:
        pytest.skip("not a git checkout")
    pattern = re.compile("/" + r"(home|root|tmp|Users|work)/\w")
    found = [n for n in names if not n.endswith((".gz", ".npz", ".png", ".safetensors"))
             and pattern.search((ROOT / n).read_text(encoding="utf-8"))]
    assert found == []
