"""Last hidden states of the untrained model, computed once and kept in a file: what `linear` fits
its heads on."""

from pathlib import Path

import torch

from ..config import RewardModelConfig
from ..errors import DataError
from ..eval_rm import fitting, score_tokens
from ..models import load_reward_model
from ..runlog import fingerprint, phase, writing
from ..scenarios import Scenarios, require, sets_of
from . import records


def compute_features(model, scenarios: Scenarios, parts: list[str],
                     config: RewardModelConfig) -> dict:
    """Last hidden states (after the final norm, 16 bits), gold and topics: {"train" | part:
    {"hidden": (P, K, H), "gold": (P, K), "topics": P names or None}}; over-long sets and undecided
    ones are dropped."""
    require(scenarios, parts)
    features = {}
    for name in dict.fromkeys(["train", *parts]):
        fit, _ = fitting(model, sets_of(scenarios, name), config.data.max_length)
        kept = [(g, t) for g, t in fit if len(set(g.gold)) > 1]
        if not kept:
            raise DataError(f"no set of {name} is left: all are over max_length or undecided")
        scored = score_tokens(model, [t for _, t in kept], config.token_budget)
        features[name] = {"hidden": torch.stack([s["after_norm"] for s in scored]).half(),
                          "gold": torch.tensor([g.gold for g, _ in kept]),
                          "topics": records.topics(config, [g for g, _ in kept])}
    return features


def load_features(path: Path, scenarios: Scenarios, parts: list[str],
                  base: RewardModelConfig) -> dict:
    """`compute_features` of the base run's untrained model, kept in the file `path` for the next
    call with the same model and data."""
    key = fingerprint([*map(records.key_of, (base.model, base.data, scenarios)), parts])
    try:
        if path.exists() and (saved := torch.load(path, weights_only=True))["key"] == key:
            return saved["features"]
    except Exception as error:  # torch raises of all kinds
        raise DataError(f"{path} cannot be read ({type(error).__name__}): delete it") from error
    model = load_reward_model(base.model.name, depth=base.model.depth, dtype=base.model.dtype)
    with phase("features"):
        features = compute_features(model, scenarios, parts, base)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as new:
        torch.save({"key": key, "features": features}, new)
    return features
