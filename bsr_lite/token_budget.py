"""The size of a micro-batch that memory allows, where a config leaves token_budget out."""

import dataclasses
import math
import os

import torch

from .config import ConfigError, RewardModelConfig
from .estimate import estimate

USABLE = {"cuda": 0.85, "cpu": 0.5}  # fragmentation; on a CPU freed blocks that malloc keeps


def available_memory() -> float:
    """Bytes that this process may fill: free GPU memory, or its share of what the system has."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] * USABLE["cuda"]
    try:
        with open("/proc/meminfo") as file:
            free = 1024 * int(next(r for r in file if r.startswith("MemAvailable")).split()[1])
    except OSError:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return free * USABLE["cpu"] / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def fit_token_budget(config: RewardModelConfig, available: float, shards: int = 1) -> int:
    """The largest power of two times the longest pair whose micro-batch fits, by two estimates and
    a straight line; no more than a whole batch.  shards: over which weights are cut.

    Raises: ConfigError when one pair does not fit.
    """
    pair, found = 2 * config.data.max_length, []
    for budget in (pair, 2 * pair):
        parts = estimate(dataclasses.replace(config, token_budget=budget))
        weights = sum(parts[k] for k in ("base", "adapters", "gradients", "optimizer"))
        found.append((parts["tokens"], weights / shards + parts["activations"]))
    (tokens, least), (more_tokens, more) = found
    if least > available:
        raise ConfigError(f"one pair of data.max_length {config.data.max_length} takes "
                          f"{least / 1e9:.1f} GB, {available / 1e9:.1f} are usable: lower it, set "
                          "model.gradient_checkpointing, model.lora_rank or model.quantization")
    a_token = (more - least) / (more_tokens - tokens)
    most = tokens + (available - least) / a_token
    whole = pair * config.batch_size
    return min(whole, pair * 2 ** int(math.log2(max(1.0, most / pair))))
