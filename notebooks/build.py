"""Build and execute notebook pairs: python notebooks/build.py [NAME ...]; all without a name.

NN_name.py (py:percent) is what is edited, NN_name.ipynb what is read. Outputs are those of the fast
profile. Building twice on one machine gives the same bytes: cell ids are numbered, and nothing
of the clock is kept. A cell that raises stops the build.
"""

import base64
import io
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
os.environ |= {"BSR_PROFILE": "fast", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}


def sources() -> list[Path]:
    """The edited halves of all pairs, notebooks first."""
    return sorted(FOLDER.glob("[0-9]*.py")) + sorted(FOLDER.glob("solutions/[0-9]*.py"))


def shrink(png: str) -> str:
    """A base64 PNG in 128 colours, about a third of the size: pages stay below 500 kB."""
    small = io.BytesIO()
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    # the method that keeps the colours of thin marks: by area they would fall to their neighbours
    kept = picture.quantize(128, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    kept.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def build(source: Path) -> Path:
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"{source.stem}-{number:03d}"
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    NotebookClient(notebook, timeout=900, kernel_name="python3", record_timing=False,
                   coalesce_streams=True,
                   resources={"metadata": {"path": str(source.parent)}}).execute()
    notebook.metadata.pop("language_info", None)  # of this machine's Python
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = shrink(output["data"]["image/png"])
    target = source.with_suffix(".ipynb")
    nbformat.write(notebook, target)
    return target


if __name__ == "__main__":
    chosen = [s for s in sources() if not sys.argv[1:] or s.stem in sys.argv[1:]]
    unknown = set(sys.argv[1:]) - {s.stem for s in chosen}
    if unknown:
        sys.exit(f"error: no notebook {', '.join(sorted(unknown))}; there are "
                 f"{', '.join(sorted({s.stem for s in sources()}))}")
    for source in chosen:
        start = time.perf_counter()
        target = build(source)
        print(f"{target.relative_to(FOLDER)}: {time.perf_counter() - start:.0f} s, "
              f"{target.stat().st_size // 1000} kB", flush=True)
