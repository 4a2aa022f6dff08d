"""The parts of `prove`: see there. Here the machine, TRL beside us, runs and notebooks."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time

import bench
import torch
from attention import kernels
from bench_rm import Work, compare
from cost import memory, speed
from exact import LIMITS, POCKET, exactness, own_format
from prove import ROOT, Job, check, clean, write

from bsr_lite import machine, train_rloo, train_rm
from bsr_lite.config import ModelConfig, RLOOConfig, load_config
from bsr_lite.embedded import EMBEDDED, embedded_model_path
from bsr_lite.models import load_reward_model
from bsr_lite.runlog import environment, read_metrics

# ---- machine -------------------------------------------------------------------------------------

def driver() -> str | None:
    """The NVIDIA driver's version, where nvidia-smi says it."""
    if not (tool := shutil.which("nvidia-smi")):
        return None
    done = subprocess.run([tool, "--query-gpu=driver_version", "--format=csv,noheader"],
                          capture_output=True, text=True, check=False, timeout=20)
    return (done.stdout.splitlines() or [None])[0]


def the_machine(job: Job) -> dict:
    """Versions; the embedded model is converted here if it never was, so that no other part's time
    goes there."""
    here, started = machine.device(), time.perf_counter()
    embedded_model_path()
    found = {"line": machine.describe(), "environment": environment(),
             "converting_the_model_s": round(time.perf_counter() - started, 1),
             "cores": os.cpu_count(), "platform": sys.platform,
             "trl": importlib.util.find_spec("trl") is not None}
    if here.type == "cuda":
        card = torch.cuda.get_device_properties(here)
        a = torch.ones(64, 64, device=here)  # says whether this torch was built for this card
        found |= {"card": card.name, "capability": f"{card.major}.{card.minor}",
                  "memory_bytes": card.total_memory, "processors": card.multi_processor_count,
                  "driver": driver(), "cuda": torch.version.cuda,
                  "cudnn": torch.backends.cudnn.version(),
                  "torch_built_for": torch.cuda.get_arch_list(),
                  "checks": [check("a product of ones on the card", (a @ a)[0, 0].item(), 64, 64)]}
        found["line"] += f"; driver {found['driver']}, CUDA {found['cuda']}"
    found["line"] += f"; torch {torch.__version__}"
    return found


# ---- TRL -----------------------------------------------------------------------------------------

def trl(job: Job) -> dict:
    """TRL's RewardTrainer, as it comes and at its best settings, on the same pairs."""
    if importlib.util.find_spec("trl") is None:
        return {"result": "skipped", "line": "TRL is not installed (pip install -r "
                                             "requirements.txt has it)"}
    sizes, here = job.sizes, machine.device()
    dtype = own_format() if here.type == "cuda" else "float32"
    model = ModelConfig(EMBEDDED, depth=sizes["layers"], lora_rank=16, dtype=dtype)
    tokenizer = load_reward_model(EMBEDDED, depth=1).tokenizer
    batches = bench.batches_of(bench.best_and_worst(POCKET), tokenizer, sizes["batches"],
                               sizes["pairs"])
    table = compare(Work(f"LoRA, {dtype}", batches, model), sizes["rounds"], here)
    rows = [{"system": bench.SYSTEMS.get(name, "ours"), "pairs/s": row["pairs_per_second"],
             "speed-up of ours": row["speed_up"][0], "quartiles":
             " to ".join(f"{x:.2f}" for x in row["speed_up"][1:]),
             "peak, MB": row["peak"] / 1e6, "loss of batch 1": row["first_loss"]}
            for name, row in table.items()]
    checks = [check(f"loss of batch 1, {name} less ours", abs(
        row["first_loss"] - table["ours"]["first_loss"]), max(1e-3, LIMITS[dtype]))
        for name, row in table.items() if name != "ours"]
    return {"line": ", ".join(f"{r['speed-up of ours']:.2f} times {r['system']}"
                              for r in rows if r["system"] != "ours"),
            "tables": {f"LoRA, {dtype}, the same pairs in turns": rows}, "checks": checks}


# ---- runs ----------------------------------------------------------------------------------------

def runs(job: Job) -> dict:
    """BT and BSR reward models by rm_fast.yaml, and steps of RLOO against the second; of each run
    config, environment and metrics stay, of this folder's `work` nothing."""
    out, work, rows = job.out, job.out / "work_run", []
    try:
        for name in ("bt", "bsr"):
            train_rm.train(load_config("bsr_lite/configs/rm_fast.yaml", overrides=[
                f"loss={name}", "model.dtype=auto", f"output_dir={work / name}",
                *job.sizes["rm"]]))
        train_rloo.train(load_config("bsr_lite/configs/rloo_fast.yaml", RLOOConfig, [
            "policy.dtype=auto", f"reward_model={work / 'bsr/model'}",
            f"output_dir={work / 'rloo'}", *job.sizes["rloo"]]))
        for name in ("bt", "bsr", "rloo"):
            for file in ("config.yaml", "env.json", "metrics.jsonl"):
                write(out / f"run_{name}" / file, clean((work / name / file).read_text(
                    encoding="utf-8")))
            last = read_metrics(work / name)[-1]
            wanted = {"step", "train/loss", "train/loss_scale", "train/proxy_reward",
                      "train/gold_reward", "train/kl", "tokens_per_s", "seconds/step",
                      "peak_memory_gb"}
            rows.append({"run": name} | {k: v for k, v in last.items()
                                         if k in wanted or k.startswith("val/")})
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"line": f"bt, bsr and rloo trained; {rows[0]['tokens_per_s']:,.0f} tokens/s (bt), "
                    f"{rows[2]['seconds/step']:.1f} s an RLOO step",
            "tables": {"last rows of their metrics": rows}}


# ---- notebooks -----------------------------------------------------------------------------------

def run_notebook(name: str, seconds: float) -> dict:
    """How a notebook's code, as a script, ended."""
    started = time.monotonic()
    try:
        done = subprocess.run([sys.executable, f"notebooks/{name}.py"], cwd=ROOT, timeout=seconds,
                              capture_output=True, text=True, errors="replace", check=False)
        result = "failed" if done.returncode else "passed"
        last = clean(done.stderr).splitlines()[-12:] if done.returncode else []
    except subprocess.TimeoutExpired:
        result, last = "out of time", []
    return {"notebook": name, "result": result, "seconds": round(time.monotonic() - started, 1),
            "last": "\n".join(last)}


def notebooks(job: Job) -> dict:
    """The notebooks' code in the fast profile."""
    rows = []
    for name in job.sizes["names"]:
        seconds = min(job.sizes["seconds"], job.left - 3)
        rows.append(run_notebook(name, seconds) if seconds > 5 else {
            "notebook": name, "result": "out of time", "seconds": 0, "last": "not reached"})
    results = [row["result"] for row in rows]
    worst = next((r for r in ("failed", "out of time") if r in results), "passed")
    line = ", ".join(f"{row['notebook'][:2]} {row['result']} ({row['seconds']:.0f} s)"
                     for row in rows)
    return {"line": line, "tables": {"fast profile": rows}, "result": worst}


FUNCTIONS = {"machine": the_machine, "exactness": exactness, "kernels": kernels, "memory": memory,
             "speed": speed, "trl": trl, "run": runs, "notebooks": notebooks}
