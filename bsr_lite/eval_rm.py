"""Scores of a reward model: agreement with the gold order of ranking sets, never with noisy labels,
and how its hidden states disperse."""


import numpy as np
import torch

from .batching import count_tokens, pack, share_out, shared_prefix
from .data import Group, Messages, read_messages
from .dispersion import effective_rank, norm_share, norm_statistics, reward_variances
from .distributed import gather, rank, ranks
from .errors import DataError, ModelError
from .metrics import agreement, bootstrap_interval, clustered, kendall_tau_b
from .scenarios import prompt_key
from .tokenization import answer_rows

# ---- scores --------------------------------------------------------------------------------------

def group_tokens(tokenizer, prompt: Messages, responses: list[str],
                 max_length: int | None = None) -> list[list[int]] | None:
    """The token group of answers to a prompt; None when one exceeds max_length tokens with it."""
    (rows,) = answer_rows(tokenizer, [(prompt, responses)])
    if max_length and max(map(len, rows)) > max_length:
        return None
    return shared_prefix(rows)


@torch.no_grad()
def score_tokens(model, token_groups: list, token_budget: int = 4096) -> list[dict]:
    """Per token group: rewards (K,), and after_norm, before_norm (K, H), the two last hidden
    states. Ranks share the work, and all return all of it.
    Raises: DataError for a chat longer than the model computes, ModelError when a reward is not
    finite."""
    longest = max((len(t[0]) + max(map(len, t[1:])) for t in token_groups), default=0)
    if longest > model.longest:
        raise DataError(f"a chat of {longest} tokens: {model.meta['base']} computes at most "
                        f"{model.longest}; shorten or leave it out")
    was_training, found = model.training, {}  # this rank's share, by index of the group
    lengths = [count_tokens(t) for t in token_groups]
    model.eval()
    for part in share_out(lengths, token_budget, ranks())[rank()]:
        # under FSDP others wait for this rank, though it has nothing left: a short group once more
        part = part or [lengths.index(min(lengths))]
        packed = pack([token_groups[i] for i in part])
        after, before = model.last_hidden(packed)  # (N, H) each, N responses of all its groups
        rewards = model.score(after)  # (N,)
        sizes = [len(token_groups[i]) - 1 for i in part]
        for name, values in (("rewards", rewards), ("after_norm", after), ("before_norm", before)):
            for index, value in zip(part, values.cpu().split(sizes), strict=True):
                answers = token_groups[index][1:]
                # the same answer gets the same reward: in a packed row it would differ in the last
                # bits, and a tie go either way
                found.setdefault(index, {})[name] = value[[answers.index(a) for a in answers]]
    model.train(was_training)
    everywhere = {index: scores for share in gather(found) for index, scores in share.items()}
    results = [everywhere[index] for index in range(len(token_groups))]
    if not all(scores["rewards"].isfinite().all() for scores in results):
        raise ModelError("the model's rewards are not finite: it diverged in training (lower the "
                         "learning rate), or, in float16, an answer overflowed it")
    return results


def fitting(model, groups: list[Group], max_length: int | None) -> tuple[list, list[Group]]:
    """Groups with their token groups, (group, token group), and the groups over max_length, or
    over what the model computes."""
    max_length = min(max_length or model.longest, model.longest)
    pairs = [(g, group_tokens(model.tokenizer, g.prompt, g.responses, max_length)) for g in groups]
    return [(g, t) for g, t in pairs if t], [g for g, t in pairs if not t]


def evaluate(model, groups: list[Group], *, max_length: int | None = None,
             token_budget: int = 4096, dispersion: bool = False) -> dict:
    """Agreement of rewards and gold over ranking sets of one size K.

    score: accuracy for K = 2, mean within-prompt Kendall tau-b otherwise, with `low` and `high`
    from a bootstrap over prompts, all sets of a prompt together, and `per_prompt`, one number a
    set, behind it; pooled_tau: tau-b over all responses of all prompts, which, unlike the former,
    sees shifts between prompts; rewards and gold, (P, K), to four decimals; length_score: the score
    of a reward that is the number of characters.
    dropped: sets over max_length; undecided: sets whose gold scores are all equal, left out;
    tied: sets in which two rewards are equal (an error for accuracy).
    Raises: DataError for mixed sizes or when nothing is left.
    """
    fit, too_long = fitting(model, groups, max_length)
    kept = [(g, t) for g, t in fit if len(set(g.gold)) > 1]
    if not kept:
        raise DataError(f"none of {len(groups)} ranking sets is left: {len(too_long)} "
                        f"exceed max_length, {len(fit)} have equal gold scores")
    if len({len(g.responses) for g, _ in kept}) > 1:
        raise DataError("ranking sets of different sizes: evaluate them apart")
    scored = score_tokens(model, [t for _, t in kept], token_budget)
    rewards = torch.stack([s["rewards"] for s in scored]).numpy()  # (P, K)
    gold = np.array([g.gold for g, _ in kept], dtype=float)  # (P, K)
    lengths = np.array([[len(r) for r in g.responses] for g, _ in kept])
    metric, per_prompt = agreement(rewards, gold)
    prompts = [prompt_key(g.prompt) for g, _ in kept]
    mean, low, high = bootstrap_interval(clustered(per_prompt, prompts))
    result = {"score": mean, "low": low, "high": high, "metric": metric, "groups": len(kept),
              "dropped": len(too_long), "undecided": len(fit) - len(kept),
              "tied": sum(len(set(row)) < len(row) for row in rewards.tolist()),
              "pooled_tau": kendall_tau_b(rewards.ravel(), gold.ravel()).item(),
              "length_score": float(agreement(lengths, gold)[1].mean()),
              "per_prompt": per_prompt.tolist(), "rewards": rewards.astype(float).round(4).tolist(),
              "prompt": np.unique(prompts, return_inverse=True)[1].tolist(),
              "gold": gold.round(4).tolist()}
    return result | (dispersion_statistics(scored, gold) if dispersion else {})


def dispersion_statistics(scored: list[dict], gold: np.ndarray) -> dict:
    """Norms, pair differences and effective rank, after and before the final RMSNorm; the margin
    and the reward's variances.

    A pair is a set's first two responses, the better one by gold as h_w (Eq. 23). Effective rank
    is that of their 2P hidden states, whatever K is, so that sets of as many prompts compare.
    """
    rewards = torch.stack([s["rewards"] for s in scored])  # (P, K)
    better = torch.from_numpy(gold[:, 0] >= gold[:, 1])[:, None]
    margin = torch.where(better[:, 0], 1, -1) * (rewards[:, 0] - rewards[:, 1])
    result = {"reward_mean": rewards.mean().item(), **reward_variances(rewards),
              "margin": margin.mean().item(), "rank_rows": 2 * len(scored)}
    for place in ("after", "before"):
        hidden = torch.stack([s[f"{place}_norm"] for s in scored])  # (P, K, H)
        chosen = torch.where(better, hidden[:, 0], hidden[:, 1])
        rejected = torch.where(better, hidden[:, 1], hidden[:, 0])
        pairs = torch.cat([chosen, rejected])
        result |= {f"norm_{place}": norm_statistics(hidden.norm(dim=-1).flatten()),
                   f"difference_{place}": norm_statistics((chosen - rejected).norm(dim=-1)),
                   f"norm_share_{place}": norm_share(chosen, rejected),
                   f"effective_rank_{place}": effective_rank(pairs),
                   f"effective_rank_centered_{place}": effective_rank(pairs, center=True)}
    return result


def score_answers(model, prompt: str | Messages, responses: list[str]) -> torch.Tensor:
    """Raw rewards of answers to one prompt, text or messages; only their differences mean
    something.  Shapes: K responses -> (K,) fp32.  Raises: DataError for anything else."""
    if isinstance(responses, str) or not responses or not all(
            isinstance(r, str) and r.strip() for r in responses):
        raise DataError(f"responses must be a list of non-empty texts, got {responses!r:.60}")
    try:
        prompt = read_messages(prompt, "prompt")
    except ValueError as error:
        raise DataError(str(error)) from error
    return score_tokens(model, [group_tokens(model.tokenizer, prompt, responses)])[0]["rewards"]
