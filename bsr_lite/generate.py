"""Sample answers from a policy: python -m bsr_lite.generate --help

At temperature 1 from the whole distribution, as policy gradients assume; a prompt is computed once
for all its answers. The command writes AlpacaEval's output format, for whoever has a judge.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from .batching import refuse_features
from .data import read_rows
from .errors import DataError, run
from .policy import Policy, load_policy
from .runlog import write_atomic
from .tokenization import tokenize


class PromptCache:
    """Keys and values of P prompts, held once each, and of the K answers to each, as they grow.

    Shapes, per layer: prompts (P, heads, L, D), padded on the right; answers (P K, heads, T, D).
    """

    def __init__(self, lengths: Tensor, num_generations: int, max_new_tokens: int):
        self.k, self.size, self.used = num_generations, max_new_tokens, 0
        self.prompts: dict[int, tuple[Tensor, Tensor]] = {}
        self.answers: dict[int, tuple[Tensor, Tensor]] = {}
        padding = torch.arange(int(lengths.max()), device=lengths.device) >= lengths[:, None]
        self.bias = torch.zeros(padding.shape, device=lengths.device).masked_fill(
            padding, float("-inf"))[:, None, None]  # (P, 1, 1, L)

    def prefill(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float):
        """Plain causal attention; what stands behind a prompt's end is never looked at."""
        self.prompts[layer] = key, value
        shape = (len(key) * self.k, key.shape[1], self.size, key.shape[3])
        self.answers[layer] = key.new_empty(shape), value.new_empty(shape)
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale,
                                            enable_gqa=True)

    def decode(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float):
        """One query an answer, over its prompt's keys and its own.  Shapes: query (P K, H, 1, D).
        """
        (own_keys, own_values), (keys, values) = self.answers[layer], self.prompts[layer]
        own_keys[:, :, self.used], own_values[:, :, self.used] = key[:, :, 0], value[:, :, 0]
        own_keys, own_values = (x[:, :, :self.used + 1] for x in (own_keys, own_values))
        (rows, heads, _, depth), (prompts, kv_heads, length, _) = query.shape, keys.shape
        query = query.view(rows, kv_heads, -1, depth) * scale  # heads that share a key
        together = query.view(prompts, self.k, kv_heads, -1, depth).transpose(1, 2).reshape(
            prompts, kv_heads, -1, depth)  # all queries of a prompt, one product
        shared = together @ keys.transpose(-1, -2) + self.bias.to(query.dtype)
        shared = shared.view(prompts, kv_heads, self.k, -1, length).transpose(1, 2).reshape(
            rows, kv_heads, -1, length)
        weights = torch.cat([shared, query @ own_keys.transpose(-1, -2)], -1)
        weights = weights.softmax(-1, dtype=torch.float32).to(query.dtype)
        shared, own = weights.split([length, self.used + 1], -1)
        shared = shared.view(prompts, self.k, kv_heads, -1, length).transpose(1, 2).reshape(
            prompts, kv_heads, -1, length)
        out = (shared @ values).view(prompts, kv_heads, self.k, -1, depth).transpose(1, 2)
        return (out.reshape(rows, kv_heads, -1, depth) + own @ own_values).reshape(
            rows, heads, 1, depth)


def prompt_cache_attention(module, query, key, value, mask, scaling=None, prompt_cache=None,
                           **features):
    """The backbone's attention while sampling.  Shapes: (B, heads, T, D) -> (B, T, heads, D).

    Raises: ModelError naming an attention feature that it does not compute."""
    refuse_features(features, prompt_cache.bias.shape[-1] + prompt_cache.size)
    step = prompt_cache.decode if module.layer_idx in prompt_cache.prompts else prompt_cache.prefill
    return step(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


def draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One token a row from softmax(logits), by inverting its distribution function: one random
    number a row, where multinomial draws one a word.  Shapes: (N, V) -> (N,)."""
    cumulative = logits.float().softmax(-1).cumsum(-1)
    point = torch.rand(len(logits), 1, generator=generator).to(logits.device) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


@torch.no_grad()
def sample(policy: Policy, prompts: list[list[int]], num_generations: int, max_new_tokens: int,
           stop: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """K answers to each of P prompts, the stop token included, and the mask of their tokens; an
    answer whose mask has no stop token ran into max_new_tokens.

    Shapes: P lists -> tokens (P K, T), mask (P K, T) bool, answers of one prompt in a row.
    """
    lengths = torch.tensor([len(p) for p in prompts], device=policy.device)
    ids = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True).to(policy.device)
    cache = PromptCache(lengths, num_generations, max_new_tokens)
    from transformers import AttentionInterface
    AttentionInterface.register("prompt_cache", prompt_cache_attention)
    policy.causal.set_attn_implementation("prompt_cache")
    model, weight = policy.causal.model, policy.causal.lm_head.weight
    with policy.autocast():
        hidden = model(input_ids=ids, prompt_cache=cache, use_cache=False).last_hidden_state
    hidden = hidden[torch.arange(len(ids)), lengths - 1].repeat_interleave(num_generations, 0)
    position, columns = lengths.repeat_interleave(num_generations), []
    finished = torch.zeros(len(hidden), dtype=torch.bool, device=policy.device)
    for cache.used in range(max_new_tokens):
        columns.append(draw(linear(hidden.to(weight.dtype), weight), generator))
        finished |= columns[-1] == stop
        if finished.all() or len(columns) == max_new_tokens:
            break
        with policy.autocast():
            hidden = model(input_ids=columns[-1][:, None], prompt_cache=cache, use_cache=False,
                           position_ids=(position + cache.used)[:, None]).last_hidden_state[:, -1]
    tokens = torch.stack(columns, dim=1)
    ended = (tokens == stop).cumsum(1)
    return tokens, ended - (tokens == stop).long() == 0


def end_of_turn(tokenizer) -> int:
    """The token with which the chat template ends an answer: what a policy has to say to stop.
    Some tokenizers name another one as eos_token."""
    return tokenize(tokenizer, [{"role": "user", "content": "x"}], "x")[1][-1]


def roll_out(policy: Policy, rows: list[dict], num_generations: int, max_new_tokens: int,
             seed: int) -> list[dict]:
    """K answers to the `prompt` of each row. Per prompt: its `row`, its `token_group` [prompt,
    answer, ...], the `texts` of its answers, and whether each `finished`, that is, ended by itself.
    """
    tokenizer, stop = policy.tokenizer, end_of_turn(policy.tokenizer)
    prompts = [tokenize(tokenizer, [{"role": "user", "content": row["prompt"]}], "")[0]
               for row in rows]
    tokens, mask = sample(policy, prompts, num_generations, max_new_tokens, stop,
                          torch.Generator().manual_seed(seed))  # (P K, T) each
    answers = iter([ids[kept].tolist() for ids, kept in zip(tokens, mask, strict=True)])
    batch = []
    for row, prompt in zip(rows, prompts, strict=True):
        mine = [next(answers) for _ in range(num_generations)]
        batch.append({"row": row, "token_group": [prompt, *mine],
                      "texts": [tokenizer.decode(ids, skip_special_tokens=True).strip()
                                for ids in mine],
                      "finished": [ids[-1] == stop for ids in mine]})
    return batch


# ---- the command ---------------------------------------------------------------------------------

def read_prompts(data: str, split: str | None = None) -> list[dict]:
    """{"prompt": `instruction` (AlpacaEval) or `prompt`} of every row.  Raises: DataError."""
    found = []
    for place, row in enumerate(read_rows(data), 1):
        if split and row.get("split") != split:
            continue
        text = row.get("instruction", row.get("prompt"))
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{data}, row {place}: needs a text `instruction` or `prompt`")
        found.append({"prompt": text})
    if not found:
        raise DataError(f"{data}: no row" + (f" of split {split!r}" if split else ""))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m bsr_lite.generate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="smollm2-135m-instruct, a hub id, a local "
                        "path, or the model folder of a train_rloo run")
    parser.add_argument("--data", required=True, help=".json, .jsonl[.gz] or .parquet with "
                        "`instruction` or `prompt`, or a hub dataset")
    parser.add_argument("--split", help="rows that carry this `split` only")
    parser.add_argument("--max-new-tokens", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", required=True, help="a .json file")
    args = parser.parse_args(argv)
    output = Path(args.output)
    if output.suffix != ".json" or not output.parent.is_dir():
        raise DataError(f"--output {output}: name a .json file in a folder that exists")
    if args.max_new_tokens < 1:
        raise DataError(f"--max-new-tokens {args.max_new_tokens}: at least 1")
    rows, policy, written = read_prompts(args.data, args.split), load_policy(args.model), []
    for start in range(0, len(rows), 16):
        batch = roll_out(policy, rows[start:start + 16], 1, args.max_new_tokens, args.seed + start)
        written += [{"instruction": b["row"]["prompt"], "output": b["texts"][0],
                     "generator": args.model} for b in batch]
    write_atomic(output, json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(written)} answers in {output}")


if __name__ == "__main__":
    run(main)
