"""What a machine's card computes, how exactly and how fast, in at most nine minutes: make gpu

    python tests/gpu/prove.py [--device cpu] [--out FOLDER] [--only PART]

Eight parts, each in a process of its own, so that none can break another; each leaves PART.json in
runs/gpu_<card>, and what passed with the same code is not done again. Neither a network nor an
account is needed. With --device cpu the same code is rehearsed, in small, without a card.
"""

import argparse
import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/speed")]  # this code, whatever is installed

PARTS = {"machine": 100, "exactness": 120, "kernels": 60, "memory": 100, "speed": 120, "trl": 90,
         "run": 120, "notebooks": 290}  # most seconds of each
TOTAL, REPORT = 540, 5  # most seconds of all; of these for the report
QUIET = {"BSR_PROFILE": "fast", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1",
         "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
# layers: of the embedded model, null all; heads: query heads, key heads, width of a head
SIZES = {"cuda": {
    "exactness": {"layers": 4, "pairs": 6, "length": 512, "draws": 4096,
                  "words": [32, 151_936]},
    "kernels": {"heads": [[9, 3, 64], [12, 2, 128]], "groups": 8, "length": 512, "repeats": 5},
    "memory": {"layers": None, "length": 512, "budgets": [2048, 8192]},
    "speed": {"layers": None, "length": 512, "budgets": [2048, 8192, 32768], "repeats": 5,
              "matrix": 8192, "prompts": 16, "answers": 8, "new_tokens": 64},
    "trl": {"layers": None, "batches": 5, "pairs": 16, "rounds": 2},
    "run": {"rm": [], "rloo": ["steps=5"]},
    "notebooks": {"names": ["02_norm_dispersion", "05_reward_model_qlora", "08_rloo"],
                  "seconds": 90}},
    "cpu": {
    "exactness": {"layers": 1, "pairs": 3, "length": 100, "draws": 1024, "words": [32, 4096]},
    "kernels": {"heads": [[4, 2, 32]], "groups": 2, "length": 64, "repeats": 3},
    "memory": {"layers": 2, "length": 64, "budgets": [128, 256]},
    "speed": {"layers": 1, "length": 64, "budgets": [128, 256], "repeats": 3,
              "matrix": 512, "prompts": 2, "answers": 2, "new_tokens": 2},
    "trl": {"layers": 1, "batches": 3, "pairs": 2, "rounds": 1},
    "run": {"rm": ["model.depth=1", "data.max_pairs=8", "batch_size=4", "eval_groups=2"],
            "rloo": ["steps=1", "prompts_per_step=2", "num_generations=2", "max_new_tokens=4",
                     "standardize_prompts=2"]},
    "notebooks": {"names": ["01_bradley_terry", "09_gold_vs_proxy"], "seconds": 60}}}


@dataclass
class Job:
    """What a part is given: its sizes, the folder of all parts, and when it has to end."""

    sizes: dict
    out: Path
    deadline: float

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()


# ---- small things --------------------------------------------------------------------------------

def slug(name: str) -> str:
    """
    >>> slug("NVIDIA A100-SXM4-80GB")
    'nvidia-a100-sxm4-80gb'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def clean(text: str) -> str:
    """The text without anybody's folders: of the repository's files the path in it, of others the
    name."""
    text = text.replace(str(ROOT) + os.sep, "")
    text = re.sub(r"[A-Za-z]:\\(?:[^\\\s\"']+\\)+", r"...\\", text)
    return re.sub(r"(?<![\w.:/~])/(?:[\w.+@~-]+/)+", ".../", text)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(path.name + ".tmp").write_text(text, encoding="utf-8")
    os.replace(path.with_name(path.name + ".tmp"), path)


def read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def key_of(name: str, device: str) -> dict:
    """What decides a part's result, besides the card."""
    digest = hashlib.sha256()
    for pattern in ("bsr_lite/**/*.py", "bsr_lite/**/*.yaml", "tests/gpu/*.py", "tests/speed/*.py",
                    "notebooks/[0-9]*.py"):
        for path in sorted(ROOT.glob(pattern)):
            digest.update(path.read_bytes())
    return {"code": digest.hexdigest()[:16], "torch": importlib.metadata.version("torch"),
            "device": device, "sizes": SIZES[device].get(name, {})}


def check(what: str, value: float, high: float, low: float = 0.0) -> dict:
    """A number that has to lie between two others."""
    return {"what": what, "value": value, "low": low, "high": high, "passed": low <= value <= high}


# ---- one part, in its process --------------------------------------------------------------------

def inside(name: str, device: str, out: Path, seconds: float, functions=None) -> dict:
    """Runs a part here and writes its record: result, seconds, what it found or its error."""
    started = time.monotonic()
    record = {"part": name, "result": "passed", "key": key_of(name, device)}
    try:
        if functions is None:
            from parts import FUNCTIONS as functions
        found = functions[name](Job(SIZES[device].get(name, {}), out, started + seconds))
        wrong = [c for c in found.get("checks", ()) if not c["passed"]]
        record["result"] = found.pop("result", "failed" if wrong else "passed")
        if wrong:
            record["error"] = "; ".join(
                f"{c['what']}: {c['value']:.3g} is not within {c['low']:g} to {c['high']:g}"
                for c in wrong)
        record["found"] = found
    except Exception as error:
        record |= {"result": "failed", "error": clean(f"{type(error).__name__}: {error}"),
                   "traceback": clean(traceback.format_exc()).splitlines()[-30:]}
    record["seconds"] = round(time.monotonic() - started, 1)
    record = json.loads(json.dumps(record), parse_constant=str)  # JSON has no NaN
    write(out / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return record


# ---- all parts -----------------------------------------------------------------------------------

def end(process: subprocess.Popen) -> None:
    """With what it started itself."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def attempt(name: str, device: str, out: Path, seconds: float) -> dict:
    """The record of a part that was run in a process of its own, however that ended."""
    path = out / f"{name}.json"
    path.unlink(missing_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            [sys.executable, __file__, "--inside", name, "--device", device, "--out", str(out),
             "--seconds", f"{seconds:.0f}"], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT,
            start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = end(process)
        except BaseException:  # Ctrl-C: a session of its own does not hear it
            end(process)
            raise
        record = read(path)
        if record is None:
            said.seek(0)
            record = {"part": name, "result": "failed" if code is not None else "out of time",
                      "error": f"its process ended with code {code}" if code is not None else
                      f"not finished within {seconds:.0f} s", "key": key_of(name, device),
                      "traceback": clean(said.read()).splitlines()[-30:]}
    # a whole process: python, imports and CUDA's start included
    record["process_seconds"] = round(time.monotonic() - started, 1)
    write(path, json.dumps(record, indent=1) + "\n")
    return record


def prove(device: str, out: Path, only: str | None) -> dict[str, dict]:
    """Records of all parts, in order; those of parts that were not asked for as they were."""
    started, records = time.monotonic(), {}
    for place, name in enumerate(PARTS, 1):
        title, old = f"[{place}/{len(PARTS)}] {name}:", read(out / f"{name}.json")
        left = TOTAL - REPORT - (time.monotonic() - started)
        if only not in (None, name):
            if old:
                records[name] = old
            continue
        if not only and old and old["result"] == "passed" and old["key"] == key_of(name, device):
            records[name] = old
            print(f"{title} passed before with the same code, not done again (--only {name} does)",
                  flush=True)
            continue
        print(title, "...", end=" ", flush=True)
        if left < 10:
            records[name] = {"part": name, "result": "not reached", "key": key_of(name, device),
                             "error": f"{TOTAL} s were over: start it again, it goes on here"}
            write(out / f"{name}.json", json.dumps(records[name], indent=1) + "\n")
        else:
            records[name] = attempt(name, device, out, min(PARTS[name], left))
        print(told(records[name]), flush=True)
    return records


# ---- the report ----------------------------------------------------------------------------------

def told(record: dict) -> str:
    """One line about a part."""
    line = record.get("found", {}).get("line", "")
    error = f" ERROR {record['error']}" if record.get("error") else ""
    return f"{record['result']} in {record.get('process_seconds', 0):.0f} s. {line}{error}"


def cell(value, most: int) -> str:
    text = f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else (
        f"{value:,.0f}" if isinstance(value, float) else str(value))
    return text.replace("|", "/").replace("\n", " ")[:most]


def table(rows: list[dict], most: int = 160) -> list[str]:
    """Markdown; columns are the keys of all rows, cells have at most so many characters."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|",
            *(f"| {' | '.join(cell(row.get(c, ''), most) for c in columns)} |" for row in rows)]


def summary(card: str, records: dict[str, dict]) -> str:
    """What a reader wants to know, in Markdown."""
    stale = {name: r["key"] != key_of(name, r["key"]["device"]) for name, r in records.items()}
    rows = [{"part": name, "result": r["result"] + ", of other code" * stale[name],
             "seconds": r.get("process_seconds", ""),
             "numbers": f"{r.get('found', {}).get('line', '')} {r.get('error', '')}".strip()}
            for name, r in records.items()]
    lines = [f"# {card}", "", *table(rows, 1000)]
    for name, record in records.items():
        found = record.get("found", {})
        for title, rows in found.get("tables", {}).items():
            lines += ["", f"## {name}: {title}", "", *table(rows)]
        lines += ["", found["note"]] if "note" in found else []
        if record.get("traceback"):
            lines += ["", f"## {name}: {record['result']}", "", "```", *record["traceback"], "```"]
    return "\n".join(lines) + "\n"


def report(card: str, out: Path, records: dict[str, dict]) -> None:
    """summary.md, results.json, and README.md, which says how the folder becomes a record."""
    write(out / "summary.md", summary(card, records))
    write(out / "results.json", json.dumps({"card": card, "parts": records}, indent=1) + "\n")
    place = out.relative_to(ROOT).as_posix() if out.is_relative_to(ROOT) else "THIS_FOLDER"
    write(out / "README.md", f"What `make gpu` found on: {card}. Read `summary.md`; `results.json` "
          "has all numbers, and each part its own file and, if it trained, its runs.\n\nTo record "
          f"it in the repository:\n\n    cp -r {place} data/runs/{out.name}\n")


def find_card() -> str:
    """Its name; ends the program, saying what to do, where there is none."""
    code = ("import torch; print(torch.__version__, '' if torch.version.cuda else 'cpu', "
            "torch.cuda.get_device_name() if torch.cuda.is_available() else '', sep='\\n')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: torch cannot be imported, or its card not be asked: {done.stderr[-500:]}")
    version, build, name = [*done.stdout.splitlines(), "", "", ""][:3]
    why = (f"torch {version} is a build without CUDA: install one with, see pytorch.org" if build
           else "does nvidia-smi list a card, and is CUDA_VISIBLE_DEVICES not empty?")
    return name or sys.exit(f"error: torch sees no CUDA GPU here ({why}). Without one, rehearse it "
                            "on the CPU: python tests/gpu/prove.py --device cpu")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python tests/gpu/prove.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SIZES, default="cuda")
    parser.add_argument("--out", type=Path, help="folder; default: runs/gpu_<card>")
    parser.add_argument("--only", choices=PARTS, metavar="PART",
                        help=f"run this part (again), and no other: {', '.join(PARTS)}")
    parser.add_argument("--inside", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "cpu":
        # before torch is imported: the card is hidden, and threads do not wait for one another
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    os.environ |= QUIET
    out = args.out and args.out.resolve()
    os.chdir(ROOT)
    if args.inside:
        return inside(args.inside, args.device, out, args.seconds)["result"] == "failed"
    started = time.monotonic()
    card = "cpu" if args.device == "cpu" else find_card()
    out = out or ROOT / "runs" / f"gpu_{slug(card)}"
    # `timeout` ends with this signal: a part that went on would work in the next start's folder
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended from outside"))
    records = prove(args.device, out, args.only)
    report(card, out, records)
    asked = [args.only] if args.only else list(PARTS)
    bad = [name for name in asked if records[name]["result"] not in ("passed", "skipped")]
    print(f"{time.monotonic() - started:.0f} s; {out / 'summary.md'}; "
          f"{'NOT PASSED: ' + ', '.join(bad) if bad else 'all passed'}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
