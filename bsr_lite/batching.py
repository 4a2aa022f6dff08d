"""Random batches of pairs, cut into token-budgeted micro-batches, each one packed row.

A packed row holds every prompt once and nothing for padding. Two prompts P and Q with two
responses each, their positions, and the two attention segments of P:

    row        P P P a a b b b Q Q c d d        tokens, (1, T)
    position   0 1 2 3 4 3 4 5 0 1 2 2 3        go on from the prompt's end in every response
    end                *     *     *   *        where the rewards of a, b, c, d are read
    segment 0  P P P a a                        queries P and a, keys P and a
    segment 1  P P P     b b b                  queries b,       keys P and b

Each response is one segment: causal attention of its own tokens over its prompt and itself. The
first response's queries bring the prompt's own along, so that nothing is computed twice: 13 tokens
are computed, and looked at in 18 key slots. What is called prompt here is all that the responses
share, the beginnings of the answers included (`shared_prefix`).
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .errors import ModelError
from .machine import VARLEN_GROUPS, attention_kernel, capability, varlen_attn

# token ids: [what a prompt's responses share, rest of response 0, rest of response 1, ...]
TokenGroup = Sequence[Sequence[int]]


# ---- a packed row --------------------------------------------------------------------------------

@dataclass
class PackedRow:
    """Several token groups in one row: N responses, T tokens, S key/value slots.

    input_ids, position_ids (1, T).  ends (N,): row index of each response's last token.
    keys (S,): the row index behind every key/value slot, segment after segment; a prompt's tokens
    come once for each of its responses.  query_lengths, key_lengths: tokens per segment.
    kernel: which attention computes it; None: what `machine.attention_kernel` says.
    """

    input_ids: Tensor
    position_ids: Tensor
    ends: Tensor
    keys: Tensor
    query_lengths: list[int]
    key_lengths: list[int]
    kernel: str | None = None
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @functools.cached_property  # the first layer makes it, every other one finds it
    def starts(self) -> tuple[Tensor, Tensor]:
        """Where segments start among queries and among keys, as kernels take it."""
        return tuple(torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32,
                                  device=self.keys.device)
                     for lengths in (self.query_lengths, self.key_lengths))

    def mask(self, queries: int, keys: int) -> Tensor:
        """Causal mask of a segment whose queries are the last of its keys; made once."""
        if (queries, keys) not in self.masks:
            mask = torch.ones(queries, keys, dtype=torch.bool, device=self.keys.device)
            self.masks[queries, keys] = mask.tril(keys - queries)  # aligned bottom-right
        return self.masks[queries, keys]

    def padded(self) -> tuple[Tensor, Tensor]:
        """The same responses as plain rows, prompt and response, padded on the right with zeros,
        and the mask of their tokens.  Shapes: (N, L), (N, L)."""
        rows = [self.input_ids[0, keys] for keys in self.keys.split(self.key_lengths)]
        lengths = torch.tensor(self.key_lengths, device=self.keys.device)
        mask = torch.arange(max(self.key_lengths), device=self.keys.device) < lengths[:, None]
        # zeros behind a row's end: attention is causal, and nobody reads what stands there
        return pad_sequence(rows, batch_first=True), mask

    def to(self, device) -> "PackedRow":
        tensors = (t.to(device) for t in (self.input_ids, self.position_ids, self.ends, self.keys))
        return PackedRow(*tensors, self.query_lengths, self.key_lengths, self.kernel)


def shared_prefix(rows: Sequence[list[int]]) -> TokenGroup:
    """The token group of whole chats: their longest common start, at most one token short of the
    shortest, so that every one keeps a last token of its own, and the rest of each.

    >>> shared_prefix([[1, 2, 3], [1, 2, 4, 5]])
    [[1, 2], [3], [4, 5]]
    """
    low, high = min(rows), max(rows)  # what these two share, all that sort between them share
    limit = min(map(len, rows)) - 1
    length = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), limit)
    length = min(length, limit)
    return [rows[0][:length], *(row[length:] for row in rows)]


def count_tokens(token_group: TokenGroup) -> int:
    """Tokens that a group takes in a row: its prefix once and all its responses."""
    return sum(map(len, token_group))


def pack(token_groups: Sequence[TokenGroup]) -> PackedRow:
    """Lay token groups out as one row.  Raises: ValueError for a group without a response, or with
    an empty one, whose last token would belong to the prompt.

    >>> row = pack([[[1, 2], [3], [4, 5]]])
    >>> row.input_ids.tolist(), row.position_ids.tolist(), row.ends.tolist()
    ([[1, 2, 3, 4, 5]], [[0, 1, 2, 2, 3]], [2, 4])
    >>> row.keys.tolist(), row.query_lengths, row.key_lengths
    ([0, 1, 2, 0, 1, 3, 4], [3, 2], [3, 4])
    """
    ids, positions, keys, ends, query_lengths, key_lengths = ([] for _ in range(6))
    for index, (prompt, *responses) in enumerate(token_groups):
        if not responses or not all(responses):
            raise ValueError(f"token group {index} needs responses of at least one token")
        first, depth = len(ids), len(prompt)
        for number, response in enumerate(responses):
            start = len(ids)
            new = [*prompt, *response] if number == 0 else response
            ids += new
            positions += range(depth + len(response) - len(new), depth + len(response))
            # the first segment is contiguous; a later one reaches back to the prompt
            keys += range(first, first + depth) if number else ()
            keys += range(start, len(ids))
            ends.append(len(ids) - 1)
            query_lengths.append(len(new))
            key_lengths.append(depth + len(response))
    return PackedRow(torch.tensor([ids]), torch.tensor([positions]), torch.tensor(ends),
                     torch.tensor(keys), query_lengths, key_lengths)


def answer_positions(packed: PackedRow, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """What a causal language model predicts in a row of prompts and answers of these lengths: the
    row index before every answer token (the prompt's last one for the first), and the token's id.

    Shapes: -> (N tokens,), (N tokens,).
    """
    # a segment's keys are the row indices of its prompt and, last, of its answer
    segments = list(zip(packed.keys.split(packed.key_lengths), lengths, strict=True))
    sources = torch.cat([keys[-length - 1:-1] for keys, length in segments])
    answers = torch.cat([keys[-length:] for keys, length in segments])
    return sources, packed.input_ids[0, answers]


# ---- its attention -------------------------------------------------------------------------------

def refuse_features(features: dict, length: int) -> None:
    """Raises: ModelError naming an attention feature that our layouts do not compute."""
    window = features.get("sliding_window")
    refused = [name for name in ("softcap", "s_aux", "dropout")
               if torch.is_tensor(features.get(name)) or features.get(name)]
    if refused or (window and window < length):
        raise ModelError(f"packed rows cannot compute this model's attention: "
                         f"{', '.join(refused) or f'sliding_window {window}'}. A reward model can "
                         "be computed in padded rows: model.layout: padded")


def segments_one_by_one(query, key, value, packed: PackedRow, scale: float | None) -> Tensor:
    """Shapes: query (1, heads, T, D), key and value (1, kv heads, S, D) -> (1, T, heads, D)."""
    out = []
    # split, not slices: a slice's backward writes a zero tensor of the whole row per segment
    for q, k, v in zip(query.split(packed.query_lengths, 2), key.split(packed.key_lengths, 2),
                       value.split(packed.key_lengths, 2), strict=True):
        n, m = q.shape[2], k.shape[2]
        # n == m: a first response with its prompt, for which SDPA has a causal kernel
        mask = None if n == m else packed.mask(n, m)
        out.append(F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=n == m, scale=scale, enable_gqa=q.shape[1] != k.shape[1]))
    return torch.cat(out, dim=2).transpose(1, 2)  # (1, T, heads, D)


def segments_at_once(query, key, value, packed: PackedRow, scale: float | None) -> Tensor:
    """The same by one call of the variable-length flash kernel, which aligns causality
    bottom-right by itself."""
    groups = {"enable_gqa": query.shape[1] != key.shape[1]} if VARLEN_GROUPS else {}
    query, key, value = (x[0].transpose(0, 1).contiguous()  # (T or S, heads, D)
                         for x in (query, key, value))
    # window (-1, 0): everything before, nothing behind, that is, causal
    return varlen_attn(query, key, value, *packed.starts, max(packed.query_lengths),
                       max(packed.key_lengths), scale=scale, window_size=(-1, 0), **groups)[None]


def packed_attention(module, query, key, value, mask, scaling=None, packed=None, **features):
    """Attention of one packed row within its segments.  Shapes: query (1, heads, T, D), key and
    value (1, kv heads, T, D) -> (1, T, heads, D).

    Raises: ModelError naming an attention feature that packed rows do not compute.
    """
    if packed is None:
        raise ValueError("packed attention needs the keyword argument packed=pack(token_groups)")
    refuse_features(features, max(packed.key_lengths))
    # rotary embeddings leave q and k in the precision of the weights: fp32 is too much for flash
    kind = query.device.type
    if torch.is_autocast_enabled(kind):
        query, key, value = (x.to(torch.get_autocast_dtype(kind)) for x in (query, key, value))
    # a prompt's keys and values are repeated here, never computed again: (.., T, D) -> (.., S, D)
    key, value = key[:, :, packed.keys], value[:, :, packed.keys]
    kernel = packed.kernel or attention_kernel(capability(query.device), query.dtype)
    if kernel == "expanded" or (kernel == "varlen" and not VARLEN_GROUPS):
        group = query.shape[1] // key.shape[1]  # else a GPU takes SDPA's kernel of quadratic memory
        key, value = (x.repeat_interleave(group, 1) for x in (key, value))  # (1, heads, S, D)
    segments = segments_at_once if kernel == "varlen" and varlen_attn else segments_one_by_one
    return segments(query, key, value, packed, scaling), None


# ---- batches -------------------------------------------------------------------------------------

def draw_batch(num_items: int, batch_size: int, seed: int, step: int) -> list[int]:
    """Indices of the optimizer batch of `step`, a function of the seed alone, so that a resumed
    run needs no sampler state. Each epoch is a fresh permutation, cut into runs of `batch_size`;
    the last run of an epoch may be shorter, so every item comes exactly once per epoch."""
    per_epoch = -(-num_items // batch_size)
    epoch, batch = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    # never sorted by length: BSR couples what shares a batch
    order = torch.randperm(num_items, generator=generator).tolist()
    return order[batch * batch_size:(batch + 1) * batch_size]


def longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def micro_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Cut items into runs whose tokens sum to at most `token_budget`, long ones first.

    Only a way to compute: what shares a run never changes a loss. An item above the budget
    gets a run of its own.
    """
    run, used = [], 0
    for index in longest_first(lengths):  # so that running out of memory shows in the first run
        if run and used + lengths[index] > token_budget:
            yield run
            run, used = [], 0
        run.append(index)
        used += lengths[index]
    if run:
        yield run


def share_out(lengths: Sequence[int], token_budget: int, ranks: int) -> list[list[list[int]]]:
    """`micro_batches` for each of several processes: long items first, each to the process with
    the fewest tokens so far. All get the same number of runs, empty ones at the end where they
    have less to do: under FSDP a pass takes every process, or the others wait forever.

    >>> share_out([9, 6, 5], token_budget=10, ranks=2)
    [[[0], []], [[1], [2]]]
    """
    shares, tokens = [[] for _ in range(ranks)], [0] * ranks
    for index in longest_first(lengths):
        least = tokens.index(min(tokens))
        shares[least].append(index)
        tokens[least] += lengths[index]
    runs = [[[share[i] for i in run] for run in micro_batches(
        [lengths[i] for i in share], token_budget)] for share in shares]
    most = max(map(len, runs))
    return [own + [[]] * (most - len(own)) for own in runs]
