"""Training pairs, the dev split and the four generalization scenarios, from any table of groups.

Source: Sec. 2.2. Train prompts X_train with responses of M_train; validation changes the
responses (M_valid), the prompts, or both. Over-optimization is training and in-domain accuracy
rising while the disjoint scenarios stagnate or fall.
"""

import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from .config import RewardModelConfig
from .data import PAIR_FORMATS, Group, Messages, Pair, read_groups, read_pairs
from .errors import DataError

RESPONSES = 4  # per prompt and source pool, as in the paper
# split of a prompt -> where its answers of train sources and of held-out sources go
PARTS = {"train": (None, "response_disjoint"),
         "dev": ("dev_prompt_disjoint", "dev_mutual_disjoint"),
         "valid": ("prompt_disjoint", "mutual_disjoint")}


@dataclass
class Scenarios:
    """Training pairs with noisy labels; validation groups carry gold scores, never labels.

    `in_domain` groups hold the two responses that training left out. `dev_*` are for every
    choice; the four scenarios are looked at, never tuned on.
    """

    train: list[Pair] = field(default_factory=list)
    in_domain: list[Group] = field(default_factory=list)
    prompt_disjoint: list[Group] = field(default_factory=list)
    response_disjoint: list[Group] = field(default_factory=list)
    mutual_disjoint: list[Group] = field(default_factory=list)
    dev_prompt_disjoint: list[Group] = field(default_factory=list)
    dev_mutual_disjoint: list[Group] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def prompt_key(prompt: Messages) -> str:
    """What makes two prompts the same: roles and texts, but for outer white space."""
    return json.dumps([{**m, "content": m["content"].strip()} for m in prompt])


def assign_splits(groups: list[Group], dev: float, valid: float, seed: int) -> None:
    """Give every group without a split one: shares `dev` and `valid` of the different prompts."""
    prompts = sorted({prompt_key(g.prompt) for g in groups})
    random.Random(seed).shuffle(prompts)
    rank = {prompt: i / len(prompts) for i, prompt in enumerate(prompts)}
    for group in groups:
        share = rank[prompt_key(group.prompt)]
        name = "dev" if share < dev else "valid" if share < dev + valid else "train"
        group.split = group.split or name


def draw_label(gold_a: float, gold_b: float, temperature: float, rng: random.Random) -> bool | None:
    """Is a labelled better than b? True with probability sigmoid((a - b) / temperature), Eq. 3's
    model with r*; temperature 0 is the gold order itself, where a tie has no answer (None)."""
    uniform = rng.random()
    if temperature == 0:
        return None if gold_a == gold_b else gold_a > gold_b
    z = (gold_a - gold_b) / temperature
    return uniform < 1 / (1 + math.exp(-max(-50.0, min(50.0, z))))


def _pick(group: Group, models: set[str], rng: random.Random) -> Group | None:
    """Four responses of `models`, or None where the prompt does not have as many."""
    index = [i for i, model in enumerate(group.models) if model in models]
    if len(index) < RESPONSES:
        return None
    index = rng.sample(index, RESPONSES)
    columns = ([column[i] for i in index] for column in (group.responses, group.gold, group.models))
    return Group(group.prompt, *columns, group.split)


def build_scenarios(groups: list[Group], valid_models: list[str], label_temperature: float,
                    seed: int = 0) -> Scenarios:
    """Split groups (each with its `split`) into training pairs and validation sets.

    `valid_models` are names, or patterns that hold out a whole family, such as `gpt-*`.
    Of a train prompt's four M_train responses two random ones form the pair, its label drawn at
    `label_temperature`; the other two are in-domain. Prompts with too few responses for a part,
    and ties where an order is needed, are left out of it and counted.
    Raises: DataError when there is nothing to train on.
    """
    rng, out = random.Random(seed), Scenarios()
    sources = {m for g in groups for m in g.models}
    named = {name: {m for m in sources if m == name or fnmatchcase(m, name)}
             for name in valid_models}
    unknown = sorted(name for name, found in named.items() if not found)
    if unknown:
        raise DataError(f"valid_models names sources that no row has: {', '.join(unknown)}")
    held_out = set().union(*named.values())
    trained = sources - held_out
    counts = out.counts = dict.fromkeys(
        ("too_few_train_responses", "too_few_valid_responses", "tied_train_pairs",
         "tied_in_domain_pairs", "labels_against_gold"), 0)
    for group in groups:
        seen, unseen = _pick(group, trained, rng), _pick(group, held_out, rng)
        counts["too_few_train_responses"] += seen is None
        counts["too_few_valid_responses"] += unseen is None
        if group.split not in PARTS:
            raise DataError(f"unknown split {group.split!r}; use {', '.join(PARTS)}")
        if seen and group.split == "train":
            _add_train_prompt(out, seen, label_temperature, rng)
        for part, picked in zip(PARTS[group.split], (seen, unseen), strict=True):
            if part and picked:
                getattr(out, part).append(picked)
    require(out, ["train"])
    return out


def require(scenarios: Scenarios, parts: list[str]) -> None:
    """Raises: DataError when one of the named parts has no rows."""
    empty = [name for name in parts if not getattr(scenarios, name, None)]
    if empty:
        raise DataError(f"no rows for {', '.join(empty)}: a part needs prompts with {RESPONSES} "
                        f"responses of its models; see data.valid_models ({scenarios.counts})")


def _add_train_prompt(out: Scenarios, seen: Group, temperature: float, rng: random.Random) -> None:
    a_better = draw_label(seen.gold[0], seen.gold[1], temperature, rng)
    if a_better is None:
        out.counts["tied_train_pairs"] += 1
    else:
        w, l = (0, 1) if a_better else (1, 0)
        out.train.append(Pair(seen.prompt, seen.responses[w], seen.responses[l]))
        out.counts["labels_against_gold"] += seen.gold[w] < seen.gold[l]
    if seen.gold[2] == seen.gold[3]:
        out.counts["tied_in_domain_pairs"] += 1
    else:
        out.in_domain.append(
            Group(seen.prompt, seen.responses[2:], seen.gold[2:], seen.models[2:], seen.split))


def pairs_as_groups(pairs: list[Pair]) -> list[Group]:
    """Pairs as ranking sets of two, the chosen response's gold above the rejected one's."""
    return [Group(p.prompt, [p.chosen, p.rejected], [1.0, 0.0], ["chosen", "rejected"])
            for p in pairs]


def sets_of(scenarios: Scenarios, name: str) -> list[Group]:
    """A scenario's ranking sets by its name; those of `train` are its pairs."""
    return pairs_as_groups(scenarios.train) if name == "train" else getattr(scenarios, name)


def dev_prompts(pairs: list[Pair], share: float, rng: random.Random) -> set[str]:
    """Random prompts that together have about `share` of the pairs; one with so many that it would
    lead away from the share stays in training."""
    count = Counter(prompt_key(p.prompt) for p in pairs)
    missing, dev = share * len(pairs), set()
    for prompt in rng.sample(sorted(count), len(count)):
        if count[prompt] <= 2 * missing or (share and not dev and count[prompt] == 1):
            dev.add(prompt)
            missing -= count[prompt]
    return dev


def load_scenarios(config: RewardModelConfig) -> Scenarios:
    """The run's training pairs and validation sets; pair formats have train and dev alone."""
    data, rng = config.data, random.Random(config.data.seed)
    if data.format in PAIR_FORMATS:
        pairs = read_pairs(data.source, data.format)
        rng.shuffle(pairs)
        dev = dev_prompts(pairs, data.dev_share, rng)
        held_out = [p for p in pairs if prompt_key(p.prompt) in dev]
        train = [p for p in pairs if prompt_key(p.prompt) not in dev]
        if data.dev_share and not (held_out and train):
            raise DataError(f"{data.source}: {len(pairs)} pairs have too few prompts to hold out "
                            f"{data.dev_share:g} of them as dev: raise data.dev_share, or set it 0")
        print(f"{data.source}: {len(held_out)} pairs of {len(dev)} prompts are held out as dev, "
              f"{len(train)} are left")
        return Scenarios(train[:data.max_pairs], dev_prompt_disjoint=pairs_as_groups(held_out))
    groups = read_groups(data.source, data.format)
    if any(g.split is None for g in groups):
        assign_splits(groups, data.dev_share, data.valid_share, data.seed)
    train = [i for i, g in enumerate(groups) if g.split == "train"]
    if data.max_pairs and data.max_pairs < len(train):  # whole prompts, as in-domain needs them
        left_out = set(rng.sample(train, len(train) - data.max_pairs))
        groups = [g for i, g in enumerate(groups) if i not in left_out]
    return build_scenarios(groups, data.valid_models, data.label_temperature, data.seed)
