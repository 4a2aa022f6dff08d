"""Sample answers from a policy, at temperature 1 from the whole distribution, as policy gradients
assume; a prompt is computed once for all its answers."""

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.nn.utils.rnn import pad_sequence

from .batching import refuse_features
from .errors import ModelError
from .policy import Policy
from .tokenization import chat_ids


def shared_prompt_attention(module, query, key, value, mask, scaling=None, prompts=None,
                            padding=None, longest=0, **features):
    """The backbone's attention while answers grow: one query an answer, over the keys of its
    prompt, which are held once for all of its K answers, and its own.

    Shapes: query (P K, H, 1, D), H = h g heads of which g share a key; key, value (P K, h, t, D);
    of a layer of `prompts` (P, h, L, D), of which `padding` (P, 1, 1, 1, L) counts for nothing
    -> (P K, 1, H, D).
    Raises: ModelError naming an attention feature that it does not compute."""
    refuse_features(features, longest)
    keys, values = prompts[module.layer_idx].keys, prompts[module.layer_idx].values
    count, h, length, depth = keys.shape
    query, key, value = (x.view(count, len(x) // count, h, -1, depth)  # (P, K, h, g or t, D)
                         for x in (query * scaling, key, value))
    # one product with a prompt's keys for all of its answers: they are never repeated
    shared = torch.einsum("pkhgd,phld->pkhgl", query, keys).masked_fill(padding, float("-inf"))
    own = torch.einsum("pkhgd,pkhtd->pkhgt", query, key)
    weights = torch.cat([shared, own], -1).softmax(-1, dtype=torch.float32).to(query.dtype)
    shared, own = weights.split([length, key.shape[3]], -1)
    out = (torch.einsum("pkhgl,phld->pkhgd", shared, values)
           + torch.einsum("pkhgt,pkhtd->pkhgd", own, value))
    return out.reshape(-1, 1, h * query.shape[3], depth), None  # (P K, 1, H, D)


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
    from transformers import AttentionInterface, DynamicCache
    AttentionInterface.register("shared_prompt", shared_prompt_attention)
    model, weight = policy.causal.model, policy.causal.lm_head.weight
    shared, own = DynamicCache(), DynamicCache()  # keys and values of prompts, and of answers
    lengths = torch.tensor([len(p) for p in prompts], device=policy.device)
    # padded on the right: attention is causal, and nobody looks behind a prompt's end
    ids = pad_sequence([torch.tensor(p) for p in prompts], batch_first=True).to(policy.device)
    padding = torch.arange(ids.shape[1], device=policy.device) >= lengths[:, None]  # (P, L)
    policy.causal.set_attn_implementation("sdpa")
    with policy.autocast():
        hidden = model(input_ids=ids, past_key_values=shared).last_hidden_state  # (P, L, H)
    hidden = hidden[torch.arange(len(ids)), lengths - 1].repeat_interleave(num_generations, 0)
    position, columns = lengths.repeat_interleave(num_generations)[:, None], []
    finished = torch.zeros(len(hidden), dtype=torch.bool, device=policy.device)
    policy.causal.set_attn_implementation("shared_prompt")
    for step in range(max_new_tokens):
        columns.append(draw(linear(hidden.to(weight.dtype), weight), generator))
        finished |= columns[-1] == stop
        if finished.all() or len(columns) == max_new_tokens:
            break
        with policy.autocast():
            hidden = model(input_ids=columns[-1][:, None], position_ids=position + step,
                           past_key_values=own, prompts=shared.layers,
                           padding=padding[:, None, None, None],
                           longest=ids.shape[1] + max_new_tokens).last_hidden_state[:, -1]
    tokens = torch.stack(columns, dim=1)
    ended = (tokens == stop).cumsum(1)
    return tokens, ended - (tokens == stop).long() == 0


def end_of_turn(tokenizer) -> int:
    """The token with which the chat template ends an answer: what a policy has to say to stop.
    Some tokenizers name another one as eos_token.  Raises: ModelError without one."""
    chats = [[{"role": "user", "content": "x"}, {"role": "assistant", "content": text}]
             for text in ("x", "Two 2.")]
    first, second = (ids[-1] for ids in chat_ids(tokenizer, chats))
    if first != second or first not in tokenizer.added_tokens_decoder:
        raise ModelError(f"the chat template of {tokenizer.name_or_path} ends an answer in no "
                         "token of its own: add one, or take an instruction-tuned model")
    return first


def prompt_ids(tokenizer, row: dict) -> list[int]:
    """Tokens of a row's `prompt` up to where the answer starts."""
    return chat_ids(tokenizer, [[{"role": "user", "content": row["prompt"]}]], generate=True)[0]


def roll_out(policy: Policy, rows: list[dict], num_generations: int, max_new_tokens: int,
             seed: int) -> list[dict]:
    """K answers to the `prompt` of each row. Per prompt: its `row`, its `token_group` [prompt,
    answer, ...], the `texts` of its answers, and whether each `finished`, that is, ended by itself.
    """
    tokenizer, stop = policy.tokenizer, end_of_turn(policy.tokenizer)
    prompts = [prompt_ids(tokenizer, row) for row in rows]
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
