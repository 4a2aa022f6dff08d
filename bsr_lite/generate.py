"""Sample answers from a policy, at temperature 1 from the whole distribution, as policy gradients
assume; a prompt is computed once for all its answers."""

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from .batching import refuse_features
from .policy import Policy
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
            padding, float("-inf"))[:, None, None, None]  # (P, 1, 1, 1, L)

    def prefill(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float):
        """Plain causal attention; what stands behind a prompt's end is never looked at."""
        self.prompts[layer] = key, value
        shape = (len(key) * self.k, key.shape[1], self.size, key.shape[3])
        self.answers[layer] = key.new_empty(shape), value.new_empty(shape)
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale,
                                            enable_gqa=True)

    def decode(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float):
        """One query an answer, over its prompt's keys and its own.  Shapes: query (P K, H, 1, D),
        H = h g heads of which g share a key."""
        keys, values = self.prompts[layer]  # (P, h, L, D)
        for mine, new in zip(self.answers[layer], (key, value), strict=True):
            mine[:, :, self.used] = new[:, :, 0]
        (prompts, h, length, depth), k = keys.shape, self.k
        own_keys, own_values = (mine[:, :, :self.used + 1].view(prompts, k, h, -1, depth)
                                for mine in self.answers[layer])  # (P, K, h, t, D)
        query = query.view(prompts, k, h, -1, depth) * scale  # (P, K, h, g, D)
        # one product with a prompt's keys for all of its answers: they are never repeated
        shared = torch.einsum("pkhgd,phld->pkhgl", query, keys) + self.bias.to(query.dtype)
        own = torch.einsum("pkhgd,pkhtd->pkhgt", query, own_keys)
        weights = torch.cat([shared, own], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
        shared, own = weights.split([length, self.used + 1], -1)
        out = (torch.einsum("pkhgl,phld->pkhgd", shared, values)
               + torch.einsum("pkhgt,pkhtd->pkhgd", own, own_values))
        return out.reshape(prompts * k, -1, 1, depth)  # (P K, H, 1, D)


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
    # in fp64: a GPU's fp32 sums over 150,000 words do not even grow with the word
    cumulative = logits.double().softmax(-1).cumsum(-1)
    point = torch.rand(len(logits), 1, generator=generator).to(logits.device) * cumulative[:, -1:]
    # rounding may put the point at the very end: clamp to the last word
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
    tokens, mask = tokens.cpu(), mask.cpu()  # once, not an answer at a time
    answers = iter([ids[kept].tolist() for ids, kept in zip(tokens, mask, strict=True)])
    batch = []
    for row, prompt in zip(rows, prompts, strict=True):
        mine = [next(answers) for _ in range(num_generations)]
        batch.append({"row": row, "token_group": [prompt, *mine],
                      "texts": [tokenizer.decode(ids, skip_special_tokens=True).strip()
                                for ids in mine],
                      "finished": [ids[-1] == stop for ids in mine]})
    return batch
