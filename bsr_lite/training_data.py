"""A config's training pairs and validation sets."""

import random

from .config import RewardModelConfig
from .data import PAIR_FORMATS, DataError, read_groups, read_pairs
from .eval_rm import pairs_as_groups
from .scenarios import Scenarios, assign_splits, build_scenarios, prompt_key


def load_scenarios(config: RewardModelConfig) -> Scenarios:
    """The run's training pairs and validation sets; pair formats have train and dev alone."""
    data, rng = config.data, random.Random(config.data.seed)
    if data.format in PAIR_FORMATS:
        pairs = read_pairs(data.source, data.format)
        rng.shuffle(pairs)
        prompts = sorted({prompt_key(p.prompt) for p in pairs})
        dev = set(rng.sample(prompts, max(1, round(data.dev_share * len(prompts)))))
        held_out = [p for p in pairs if prompt_key(p.prompt) in dev]
        train = [p for p in pairs if prompt_key(p.prompt) not in dev]
        if not train:
            raise DataError(f"{data.source}: {len(prompts)} prompts are too few to hold out dev")
        return Scenarios(train[:data.max_pairs], dev_prompt_disjoint=pairs_as_groups(held_out))
    groups = read_groups(data.source, data.format)
    if any(g.split is None for g in groups):
        assign_splits(groups, data.dev_share, data.valid_share, data.seed)
    train = [i for i, g in enumerate(groups) if g.split == "train"]
    if data.max_pairs and data.max_pairs < len(train):  # whole prompts, as in-domain needs them
        left_out = set(rng.sample(train, len(train) - data.max_pairs))
        groups = [g for i, g in enumerate(groups) if i not in left_out]
    return build_scenarios(groups, data.valid_models, data.label_temperature, data.seed)
