"""Looks at a reward model and its pairs, a line a check: ok, look or broken, what was measured, and
what to do: python -m bsr_lite.course.doctor MODEL [DATA] [--format FORMAT] [--policy POLICY]

MODEL is a folder of save_reward_model, or any classifier of one label that load_reward_model reads.
DATA holds pairs, or ranking sets, of which the best and the worst answer are taken; by default dev
prompts of the pocket world. The exit status is 1 where something is broken. The symptoms are those
that public trackers are full of; notebook 11 brings each about and mends it.
"""

import argparse

import torch

from .. import batching, eval_rm, generate, machine, models, pretrained, scenarios, tokenization
from ..data import Pair
from ..errors import run
from ..policy import load_policy
from ..studies.evaluate import read_sets


def read(source: str, kind: str, split: str | None = None, count: int = 64) -> list[Pair]:
    """A random draw of pairs; of a ranking set the best and the worst answer, the same one where
    all are equally good."""
    sets = read_sets(source, kind, split or ("dev" if source.startswith("data/pocket/") else None))
    pairs = [Pair(g.prompt, *(g.responses[g.gold.index(end(g.gold))] for end in (max, min)))
             for _, groups in sets for g in groups]
    return [pairs[i] for i in batching.draw_batch(len(pairs), count, seed=0, step=0)]


# ---- checks: (verdict, what was measured) --------------------------------------------------------

def head(model) -> tuple[str, str]:
    """Is it there, and was it trained? A new one is drawn from N(0, 1/(H+1)), so its norm is near 1
    (Eq. 2); what training makes of that nobody can foretell, and a random head that was saved
    passes: compare rewards before and after loading.

    Mend: train it, and save it with the rest (PEFT: task_type SEQ_CLS, or modules_to_save)."""
    weight = model.head_weight.detach().float().cpu()  # (H,)
    draws = [torch.randn(len(weight), generator=torch.Generator().manual_seed(s)) for s in range(5)]
    drawn = torch.cosine_similarity(torch.stack(draws), weight, dim=1).max() > 0.99999
    here = "missing in the folder" if model.meta["new_head"] else "a new draw" if drawn else "there"
    text = f"norm {(norm := weight.norm().item()):.2f} (new: 1), {here}"
    return "broken" if not norm or here != "there" else "ok" if 0.1 < norm < 10 else "look", text


def template(tokenizer, pairs: list[Pair], rows: list) -> tuple[str, str]:
    """Does a chat end in a token of its own, keep the chosen answer's text, finished or not, and
    begin with one BOS? rows: of each pair the tokens of both chats, chosen first.

    Mend: an end of turn in tokenizer.chat_template, then train again.
    A second BOS: tokenizer(chat, add_special_tokens=False)."""
    ends, bos = {ids[-1] for pair in rows for ids in pair}, tokenizer.bos_token_id
    closed = len(ends) == 1 and ends <= tokenizer.added_tokens_decoder.keys()
    kept = sum(p.chosen.strip() in "".join(tokenization.render(tokenizer, [
        *p.prompt, {"role": "assistant", "content": p.chosen}])) for p in pairs)
    twice = tokenizer(tokenizer.decode(rows[0][0]))["input_ids"][:2] == [bos, bos]
    text = f"end of turn {closed}, {kept} of {len(pairs)} chosen answers kept, a second BOS {twice}"
    return "broken" if not closed or kept < len(pairs) else "look" if twice else "ok", text


def data(pairs: list[Pair], rows: list, max_length: int = 512) -> tuple[str, str]:
    """Pairs that teach nothing, as their tokens are equal (outer white space is no token) or would
    be when cut, and prompts that come more than once. Empty answers no reader lets in.

    Mend: drop pairs that are equal or too long, do not cut them; hold out prompts."""
    same, lost = (sum(a[:n] == b[:n] for a, b in rows) for n in (None, max_length))
    again = len(pairs) - len({scenarios.prompt_key(p.prompt) for p in pairs})
    text = f"{same} of {len(pairs)} equal, {lost} if cut at {max_length}, {again} repeat a prompt"
    return "broken" if 10 * lost > len(pairs) else "look" if lost + again else "ok", text


def batches(model, rows: list) -> tuple[str, str]:
    """Rewards of answers each alone, packed together, and in rows that plain transformers pads.

    Mend: one token that ends no chat for tokenizer.pad_token and config.pad_token_id;
    hand over attention_mask; score in 32 bits, or one by one."""
    chats = [ids for pair in rows for ids in pair]
    alone = torch.cat([model(batching.pack([[ids[:-1], ids[-1:]]])) for ids in chats])
    found = {"packed": model(batching.pack([batching.shared_prefix(pair) for pair in rows]))}
    model.classifier.set_attn_implementation("eager")
    for side in ("right", "left"):
        batch = model.tokenizer.pad({"input_ids": chats}, padding_side=side, return_tensors="pt")
        with machine.autocast(model.device, model.compute_dtype):
            found[f"padded {side}"] = model.classifier(**batch.to(model.device)).logits[:, 0]
    model.classifier.set_attn_implementation(pretrained.attention(model.meta))
    off = {name: ((r - alone).abs().max() / alone.std()).item() for name, r in found.items()}
    noise = max(0.01, 64 * torch.finfo(model.compute_dtype).eps)  # in bf16 half a deviation
    text = ", ".join(f"{name} {x:.3f}" for name, x in off.items()) + " standard deviations off"
    return "ok" if all(x <= noise for x in off.values()) else "broken", text


def level(scores: dict) -> tuple[str, str]:
    """The mean reward against how far rewards lie from their pair's mean; scores: of `evaluate`.

    Mend: nothing for ranking (Eq. 3), nor for RL with a baseline. Where a fixed number replaces
    the reward or is its threshold: subtract fixed answers' mean, or BSR. In 16 bits: use 32."""
    r = torch.tensor(scores["rewards"])  # (P, 2)
    mean, half = r.mean().item(), r.diff(dim=1).abs().mean().item() / 2
    text = f"{r.min():.2f} to {r.max():.2f}, mean {mean:+.2f}, distance to pair mean {half:.2f}"
    return "ok" if r.min() < 0 < r.max() and abs(mean) <= 10 * half else "look", text


def accuracy(scores: dict) -> tuple[str, str]:
    """Against a coin, and against the number of characters.

    Mend: if below .5, suspect an untrained head, turned labels, or length. If near .5, suspect
    labels, learning rate, steps. If no better than length, judge pairs of like length."""
    rule = 0.5 + abs(scores["length_score"] - 0.5)  # longer wins, or shorter
    text = "{score:.2f} ({low:.2f} to {high:.2f}), {groups} pairs; longer answer {length_score:.2f}"
    verdict = "broken" if scores["high"] < 0.5 else "ok" if scores["low"] > rule else "look"
    return verdict, text.format(**scores)


def kl(policy, pairs: list[Pair]) -> tuple[str, str]:
    """Mean log pi - log pi_ref of own answers at temperature 1: a KL, below 0 by noise alone.
    One-sided: another policy or temperature can leave it above 0.

    Mend: slightly below 0 is noise, take more answers. Else sample with the newest weights
    at temperature 1 without top-p; score with the template that sampled; count no padding."""
    prompts = [{"prompt": pair.prompt[-1]["content"]} for pair in pairs[:8]]
    groups = [b["token_group"] for b in generate.roll_out(policy, prompts, 4, 32, seed=0)]
    own = policy.logprobs(groups)  # 32 tensors (T,)
    with policy.reference():
        k1 = torch.stack([(a - b).sum() for a, b in zip(own, policy.logprobs(groups), strict=True)])
    mean, half = k1.mean().item(), 2 * k1.std().item() / len(k1) ** 0.5
    text = f"{mean:+.2f} +- {half:.2f} nats an answer, {len(k1)} answers"
    return "ok" if mean >= 0 else "look" if mean + half >= 0 else "broken", text


# ---- the command ---------------------------------------------------------------------------------

@torch.no_grad()
def tell(check, *arguments, advice: bool = True) -> bool:
    """Prints what a check found and, unless all is well, its way out; False where broken."""
    verdict, text = check(*arguments)
    way = check.__doc__[check.__doc__.index("Mend:"):] * (advice and verdict != "ok")
    print(f"{check.__name__:9} {verdict:7} {text}", *map(str.strip, way.splitlines()), sep="\n    ")
    return verdict != "broken"


def examine(model, pairs: list[Pair], max_length: int = 512, policy=None, tell=tell) -> bool:
    """Every check, told; after a head that is broken no more.  False where any is broken."""
    chats = [(pair.prompt, (pair.chosen, pair.rejected)) for pair in pairs]
    rows = list(tokenization.answer_rows(model.tokenizer, chats))
    return tell(head, model) and all([
        tell(template, model.tokenizer, pairs, rows), tell(data, pairs, rows, max_length),
        tell(batches, model, rows[:4]),
        tell(level, scores := eval_rm.evaluate(model, scenarios.pairs_as_groups(pairs))),
        tell(accuracy, scores), not policy or tell(kl, policy, pairs)])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bsr_lite.course.doctor", description=__doc__)
    parser.add_argument("model", help="folder or hub id")
    parser.add_argument("data", nargs="?", default="data/pocket/pocket.jsonl.gz", help="pairs")
    parser.add_argument("--format", default="pocket", help="as in studies.evaluate")
    parser.add_argument("--max-length", type=int, default=512, dest="most", metavar="TOKENS")
    parser.add_argument("--policy", help="that train_rloo saved")
    args = parser.parse_args(argv)
    pairs, pi = read(args.data, args.format), args.policy and load_policy(args.policy)
    raise SystemExit(not examine(models.load_reward_model(args.model).eval(), pairs, args.most, pi))


if __name__ == "__main__":
    run(main)
