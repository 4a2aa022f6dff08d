"""The attention kernels of a card, forward and backward, against fp32 on the CPU."""

import random
import statistics

import torch
from bench_growth import group_of
from bench_rm import clock
from exact import LIMITS, flat, own_format, relative
from prove import Job, check, clean
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bsr_lite import batching, machine
from bsr_lite.batching import pack, packed_attention


def attend(packed, values: list[Tensor], device, dtype: torch.dtype):
    """Output and gradients of query, key and value, and the work itself, to be timed."""
    *inputs, gradient = (x.to(device, dtype, copy=True) for x in values)
    q, k, v = (x.requires_grad_() for x in inputs)
    packed = packed.to(device)

    def work():
        for x in (q, k, v):
            x.grad = None
        out, _ = packed_attention(None, q, k, v, None, scaling=q.shape[-1] ** -0.5, packed=packed)
        out.backward(gradient)
        return out

    out = work()
    return {"out": out.detach(), "gradient": flat(x.grad for x in (q, k, v))}, work


def kernel_row(packed, values, expected: dict, kernel: str, dtype: str, repeats: int) -> dict:
    """Errors, milliseconds, memory, and which of torch's attention operations ran."""
    device, packed.kernel = machine.device(), kernel
    chosen = machine.attention_kernel(machine.capability(device), getattr(torch, dtype)) == kernel
    row = {"kernel": kernel, "format": dtype, "chosen here": "yes" if chosen else ""}
    if kernel == "varlen" and not batching.varlen_attn:
        return row | {"ran": "this torch has no varlen_attn, segments are computed one by one"}
    try:
        found, work = attend(packed, values, device, getattr(torch, dtype))
        row |= {name: relative(found[name], expected[name]) for name in expected}
        seconds = []
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            work()
        for _ in range(repeats):
            started = clock(device)
            work()
            seconds.append(clock(device) - started)
        ran = sorted({e.key for e in seen.key_averages() if "attention" in e.key.lower()
                      and "backward" not in e.key.lower() and e.key.count("::") == 1
                      and e.key != "aten::scaled_dot_product_attention"})
        row |= {"ms": 1000 * statistics.median(seconds), "ran": ", ".join(ran)}
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            work()
            row["MB"] = (torch.cuda.max_memory_allocated() - before) / 1e6
    except (RuntimeError, ValueError, NotImplementedError) as error:  # older cards refuse some
        row["ran"] = clean(f"cannot: {error}")
    return row


def kernels(job: Job) -> dict:
    """Every kernel in the formats that it takes; the one that training takes has to run."""
    rows, checks, own = [], [], own_format()
    for heads, kv_heads, width in job.sizes["heads"]:
        numbers, generator = random.Random(0), torch.Generator().manual_seed(0)
        packed = pack([group_of(job.sizes["length"], 2, numbers)
                       for _ in range(job.sizes["groups"])])
        tokens = packed.input_ids.shape[1]
        shapes = [(1, n, tokens, width) for n in (heads, kv_heads, kv_heads)]
        values = [torch.randn(shape, generator=generator).to(getattr(torch, own)).float()
                  for shape in (*shapes, (1, tokens, heads, width))]  # numbers that all can hold
        packed.kernel = "grouped"
        expected, _ = attend(packed, values, torch.device("cpu"), torch.float32)
        for kernel, dtype in (("expanded", "float32"), ("expanded", own), ("varlen", own),
                              ("grouped", own)):
            row = kernel_row(packed, values, expected, kernel, dtype, job.sizes["repeats"])
            rows.append({"heads": f"{heads} on {kv_heads}, width {width}"} | row)
            title = f"{rows[-1]['heads']}, {kernel}, {dtype}"
            checks += [check(f"{title}: {name}", row[name], LIMITS[dtype])
                       for name in ("out", "gradient") if name in row]
            if row["chosen here"] and "out" not in row:  # the one that training would take
                checks.append(check(f"{title}, which training takes, {row['ran']}", 1, 0))
    own_rows = [r for r in rows if r["format"] == own and r["kernel"] != "grouped"]
    line = ", ".join(f"{r['kernel']} {r['ms']:.1f} ms" for r in own_rows[-2:] if "ms" in r)
    chosen = machine.attention_kernel(machine.capability(machine.device()), getattr(torch, own))
    return {"line": f"{own} takes {chosen}; forward and backward: {line}", "checks": checks,
            "tables": {f"{tokens} tokens": rows}, "chosen": chosen}
