"""What `pip install` puts on a machine without the checkout is the whole library."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bsr_lite"
pytestmark = pytest.mark.slow
IMPORT_ALL = """
import importlib, sys
folder, *names = sys.argv[1:]
sys.path.insert(0, folder)
for name in names:
    module = importlib.import_module(name)
    assert module.__file__.startswith(folder), (name, module.__file__)
"""


def files_of(package: Path) -> set[str]:
    return {str(path.relative_to(package)) for path in package.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}


def run(*command, cwd, **variables) -> subprocess.CompletedProcess:
    """A command outside the checkout, which no variable points to either."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=environment,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel was installed to; its dependencies stay where they are."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: building leaves files beside pyproject.toml
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "bsr_lite", ignore=shutil.ignore_patterns("__pycache__"))
    pip = ("-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source,
        cwd=folder)
    (wheel,) = folder.glob("bsr_lite-*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--target", folder / "site", wheel, cwd=folder)
    return folder / "site"


def test_the_wheel_holds_every_module_and_every_data_file(installed):
    missing = files_of(PACKAGE) - {  # pip compiles what it installs
        name for name in files_of(installed / "bsr_lite") if not name.endswith(".pyc")}
    assert not missing, f"not in the wheel: {sorted(missing)}"
    assert any(name.endswith("rm_fast.yaml") for name in files_of(installed / "bsr_lite"))
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {
        "bsr_lite"}  # no tests, notebooks or data


def test_every_module_imports_from_the_wheel_alone(installed):
    names = [".".join(("bsr_lite", *path.relative_to(PACKAGE).with_suffix("").parts))
             for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]
    names = [name.removesuffix(".__init__") for name in names]
    assert {"bsr_lite.studies", "bsr_lite.scale", "bsr_lite.course"} <= set(names)
    run("-c", IMPORT_ALL, installed, *names, cwd=installed.parent)


def test_commands_run_from_the_wheel(installed):
    said = run("-m", "bsr_lite.train_rm", "--help", cwd=installed.parent,
               PYTHONPATH=str(installed)).stdout
    assert "usage: python -m bsr_lite.train_rm" in said and "--config" in said
