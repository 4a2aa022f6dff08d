"""Frozen features: hidden states computed once, an MLP reward head trained on them, many seeds at
the same time: python -m bsr_lite.studies.frozen --config bsr_lite/configs/frozen.yaml

The statistical tier of the study: objectives differ in tau by less than a few seeds can show, and
here fifty take seconds. The backbone never moves, so nothing can be said about hidden norms.
"""

from dataclasses import field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import (
    SCENARIOS,
    Count,
    Folder,
    Rate,
    RewardModelConfig,
    Several,
    load_config,
    section,
)
from ..errors import DataError, run
from ..eval_rm import fitting, score_tokens
from ..losses import check_loss, preference_loss
from ..metrics import agreement, kendall_tau_b
from ..models import load_reward_model
from ..runlog import fingerprint, phase, writing
from ..scenarios import Scenarios, load_scenarios, require, sets_of
from ..step import schedule
from . import records
from .statistics import interval
from .tables import columns_table, scores_text


@section
class FrozenConfig:
    """A study on frozen features: objectives x many seeds of an MLP head. Each of `methods` holds
    `preference_loss`'s kind as `loss` and its parameter; the others are compared to the first."""

    base: str  # path of a RewardModelConfig YAML, for its model (untrained) and data
    methods: records.Objectives
    output_dir: Folder
    base_set: list[str] = field(default_factory=list)  # key=value overrides of the base
    seeds: Several = 50
    width: Count = 64  # hidden units
    epochs: Count = 4
    batch_size: Count = 32
    learning_rate: Rate = 1e-3
    eval_groups: Count | None = None  # random groups per scenario; None: all
    scenarios: records.Parts = field(default_factory=lambda: list(SCENARIOS))

    def __post_init__(self):
        for name, objective in self.methods.items():
            options = {key: value for key, value in objective.items() if key != "loss"}
            if any(isinstance(value, str) for value in options.values()):
                raise ValueError(f"method {name}: parameters must be numbers, got {options}")
            check_loss(objective.get("loss"), **options)


# ---- features ------------------------------------------------------------------------------------

def compute_features(model, scenarios: Scenarios, parts: list[str], config: RewardModelConfig,
                     eval_groups: int | None) -> dict:
    """Last hidden states (after the final norm, 16 bits), gold and topics: {"train" | part:
    {"hidden": (P, K, H), "gold": (P, K), "dropped": n, "topics": P names or None}}; over-long sets
    and undecided ones are dropped."""
    require(scenarios, parts)
    features = {}
    for name in dict.fromkeys(["train", *parts]):
        groups = sets_of(scenarios, name)
        if name != "train":
            groups = records.drawn(groups, eval_groups, config.data.seed)
        fit, _ = fitting(model, groups, config.data.max_length)
        kept = [(g, t) for g, t in fit if len(set(g.gold)) > 1]
        if not kept:
            raise DataError(f"no set of {name} is left: all are over max_length or undecided")
        scored = score_tokens(model, [t for _, t in kept], config.token_budget)
        features[name] = {"hidden": torch.stack([s["after_norm"] for s in scored]).half(),
                          "gold": torch.tensor([g.gold for g, _ in kept]),
                          "dropped": len(groups) - len(kept),
                          "topics": records.topics(config, [g for g, _ in kept])}
    return features


def load_features(path: Path, scenarios: Scenarios, parts: list[str], base: RewardModelConfig,
                  eval_groups: int | None = None) -> dict:
    """`compute_features` of the base run's untrained model, kept in the file `path` for the next
    call with the same model and data."""
    key = fingerprint([*map(records.key_of, (base.model, base.data, scenarios)), parts,
                       eval_groups, "topics"])  # files of before they held topics do not count
    try:
        if path.exists() and (saved := torch.load(path, weights_only=True))["key"] == key:
            return saved["features"]
    except Exception as error:  # torch raises of all kinds
        raise DataError(f"{path} cannot be read ({type(error).__name__}): delete it") from error
    model = load_reward_model(base.model.name, depth=base.model.depth, dtype=base.model.dtype)
    with phase("features"):
        features = compute_features(model, scenarios, parts, base, eval_groups)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as new:
        torch.save({"key": key, "features": features}, new)
    return features


# ---- the head ------------------------------------------------------------------------------------

def new_heads(seeds: int, inputs: int, width: int) -> dict[str, Tensor]:
    """One MLP per seed, r = w . tanh(W x + b): W ~ N(0, 1/H), w ~ N(0, 1/(width+1)) as Eq. 2."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    w1 = torch.stack([torch.randn(inputs, width, generator=g) for g in generators]) / inputs**0.5
    w2 = torch.stack([torch.randn(width, 1, generator=g) for g in generators]) / (width + 1) ** 0.5
    heads = {"w1": w1, "b1": torch.zeros(seeds, 1, width), "w2": w2}
    return {name: values.requires_grad_() for name, values in heads.items()}


def head_rewards(heads: dict[str, Tensor], x: Tensor) -> Tensor:
    """Shapes: heads of S seeds, x (S or 1, N, H) -> (S, N)."""
    return (torch.tanh(x @ heads["w1"] + heads["b1"]) @ heads["w2"])[..., 0]


def train_heads(pairs: Tensor, objective: dict, config: FrozenConfig) -> dict[str, Tensor]:
    """Heads of all seeds on (P, 2, H) standardized features, chosen first: each seed has its own
    initial head and order of batches, the same for every objective."""
    options = {key: value for key, value in objective.items() if key != "loss"}
    heads = new_heads(config.seeds, pairs.shape[-1], config.width)
    optimizer = torch.optim.AdamW(heads.values(), lr=config.learning_rate, weight_decay=0.0)
    generators = [torch.Generator().manual_seed(1_000_003 + s) for s in range(config.seeds)]
    per_epoch = len(pairs) // config.batch_size
    total = per_epoch * config.epochs
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.stack([torch.randperm(len(pairs), generator=g) for g in generators])
        place = step % per_epoch * config.batch_size
        batch = pairs[order[:, place:place + config.batch_size]]  # (S, B, 2, H)
        rewards = head_rewards(heads, batch.flatten(1, 2)).view(config.seeds, -1, 2)
        loss = sum(preference_loss(objective["loss"], r[:, 0], r[:, 1], **options) for r in rewards)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(step, total, 0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {name: values.detach() for name, values in heads.items()}


# ---- the study -----------------------------------------------------------------------------------

def standardize(features: dict) -> dict[str, Tensor]:
    """Every coordinate with the training pairs' mean and deviation: {part: (P, K, H) fp32}."""
    train = features["train"]["hidden"].float().flatten(0, 1)
    mean, std = train.mean(0), train.std(0).clamp_min(1e-6)
    return {name: (f["hidden"].float() - mean) / std for name, f in features.items()}


def scores(heads: dict[str, Tensor], x: Tensor, gold: Tensor) -> dict:
    """Per seed and prompt: accuracy for K = 2, tau within prompts otherwise, (S, P); per seed: tau
    pooled over prompts, as it is and after centring every prompt (a control: what a shift c(x)
    cost), the mean reward, and its variance between and within prompts."""
    with torch.no_grad():
        rewards = head_rewards(heads, x.flatten(0, 1)[None]).view(-1, *x.shape[:2])  # (S, P, K)
    r, g = rewards.double().numpy(), np.broadcast_to(gold.double().numpy(), rewards.shape)
    metric, score = agreement(r, g)
    pooled, centred = (kendall_tau_b(values.reshape(len(r), -1), g.reshape(len(r), -1))
                       for values in (r, r - r.mean(-1, keepdims=True)))
    return {"metric": metric, "score": score, "pooled": pooled, "pooled_centred": centred,
            "reward_mean": r.mean((1, 2)), "between_prompts": r.mean(2).var(1),
            "within_prompts": r.var(2).mean(1)}


def compute(config: FrozenConfig, base: RewardModelConfig) -> dict:
    """summary[method][part]: mean score, its paired difference to the first method with a 95%
    interval over seeds and topics (prompts, where none is named), and means of the rest."""
    features = load_features(Path(config.output_dir) / "features.pt", load_scenarios(base),
                             config.scenarios, base, config.eval_groups)
    x, summary, first = standardize(features), {}, {}
    for method, objective in config.methods.items():
        with phase(method):
            heads = train_heads(x["train"], objective, config)
            summary[method] = {}
            for part in config.scenarios:
                found = scores(heads, x[part], features[part]["gold"])
                metric, score = found.pop("metric"), found.pop("score")
                base_score = first.setdefault(part, score)
                alike = features[part]["topics"]
                summary[method][part] = {
                    "metric": metric, "prompts": score.shape[1],
                    "dropped": features[part]["dropped"],
                    "score": float(score.mean()), "seed_std": float(score.mean(1).std(ddof=1)),
                    "difference": interval(score - base_score, alike),
                    "clusters": alike and len(set(alike)),
                    **{k: float(v.mean()) for k, v in found.items()}}
    return summary


def frozen_text(summary: dict, seeds: int) -> str:
    """The table of scores and differences, and one of reward statistics."""
    names = ("pooled", "pooled_centred", "reward_mean", "between_prompts", "within_prompts",
             "seed_std")
    statistics = columns_table(summary, {name: name for name in names}, ".4f")
    return f"{scores_text(summary, seeds, '+.4f')}\n\n{statistics}\n"


def run_frozen(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """Run the study and write results.json, results.md and env.json; with `resume`, one recorded
    under data/runs for the same config is read back."""
    config = load_config(path, FrozenConfig, overrides)
    base = load_config(path.parent / config.base, overrides=config.base_set)
    return records.study_without_runs(
        config, lambda: compute(config, base), lambda found: frozen_text(found, config.seeds),
        resume, base_config=base)


def main(argv: list[str] | None = None) -> None:
    records.command("frozen", __doc__, "a frozen-feature study", run_frozen, argv)


if __name__ == "__main__":
    run(main)
