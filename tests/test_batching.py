import pytest
import torch
from conftest import assert_close_in_norm
from hypothesis import given, settings
from hypothesis import strategies as st

from bsr_lite import batching
from bsr_lite.batching import (
    count_tokens,
    draw_batch,
    micro_batches,
    pack,
    packed_attention,
    shared_prefix,
)
from bsr_lite.errors import ModelError
from bsr_lite.pretrained import attention

ids = st.lists(st.integers(3, 60), min_size=1, max_size=12)
texts_with_answers = st.lists(st.tuples(st.lists(st.integers(3, 60), max_size=12),
                                   st.lists(ids, min_size=1, max_size=4)), min_size=1, max_size=4)


def whole(prompt, answers):
    return [prompt + answer for answer in answers]


@pytest.fixture(scope="module")
def llama(tiny_path):
    from transformers import AutoModelForSequenceClassification
    attention({})
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_path, num_labels=1)
    model.config.pad_token_id = 0
    return model.train()


def padded_rewards(model, rows):
    """The reference: plain transformers on right-padded rows."""
    model.set_attn_implementation("sdpa")
    width = max(map(len, rows))
    batch = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return model(input_ids=batch, attention_mask=mask, use_cache=False).logits[:, 0]


def packed_rewards(model, token_groups):
    model.set_attn_implementation("packed")
    packed = pack(token_groups)
    hidden = model.model(input_ids=packed.input_ids, position_ids=packed.position_ids,
                         packed=packed, use_cache=False).last_hidden_state
    return model.score(hidden[0, packed.ends])[:, 0]


def gradients(model, rewards):
    """All weights positive and different: no two responses cancel, none goes unseen."""
    model.zero_grad()
    (rewards * torch.linspace(1, 2, len(rewards))).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@given(texts_with_answers)
@settings(max_examples=25, deadline=None)
def test_rewards_and_gradients_equal_padded_rows(llama, texts):
    rows = [prompt + response for prompt, responses in texts for response in responses]
    token_groups = [shared_prefix(whole(prompt, responses)) for prompt, responses in texts]
    a, b = padded_rewards(llama, rows), packed_rewards(llama, token_groups)
    assert_close_in_norm(b, a, unit=1)
    ga, gb = gradients(llama, padded_rewards(llama, rows)), gradients(llama, b)
    assert_close_in_norm(gb, ga)


def flash(query, key, value, query_starts, key_starts, max_q, max_k, *, scale, window_size,
          enable_gqa):
    """What the GPU kernel is documented to compute, in plain words: (T, heads, D) in runs given by
    their starts, causal where the window ends at 0, aligned bottom-right."""
    assert window_size == (-1, 0) and query_starts.dtype == key_starts.dtype == torch.int32
    assert enable_gqa == (query.shape[1] != key.shape[1])
    share, out = query.shape[1] // key.shape[1], []
    for a, b, c, d in zip(query_starts, query_starts[1:], key_starts, key_starts[1:], strict=False):
        assert b - a <= max_q and d - c <= max_k
        for i in range(a, b):
            last = d - (b - i) + 1  # keys that query i may see end here
            keys, values = (x[c:last].repeat_interleave(share, 1) for x in (key, value))
            weights = (torch.einsum("hd,khd->hk", query[i], keys) * scale).softmax(-1)
            out.append(torch.einsum("hk,khd->hd", weights, values))
    return torch.stack(out)


def without_groups(query, key, value, *starts, scale, window_size):
    assert query.shape[1] == key.shape[1]
    return flash(query, key, value, *starts, scale=scale, window_size=window_size, enable_gqa=False)


@given(texts_with_answers, st.sampled_from([(4, 4), (4, 2), (3, 1)]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_kernels_of_a_packed_row_are_one_function(texts, heads, groups):
    """The kernel's indexing, where there is no GPU to run it; torch 2.11's takes no groups."""
    packed = pack([shared_prefix(whole(*text)) for text in texts])
    q, k, v = (torch.randn(1, n, packed.input_ids.shape[1], 8, dtype=torch.float64,
                           requires_grad=True) for n in (heads[0], heads[1], heads[1]))
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "varlen_attn", flash if groups else without_groups)
        patch.setattr(batching, "VARLEN_GROUPS", groups)
        for packed.kernel in ("grouped", "expanded", "varlen"):
            found.append(packed_attention(None, q, k, v, None, scaling=0.3, packed=packed)[0])
    weights = torch.randn_like(found[0])
    gradients = [torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in found]
    for other in (1, 2):
        torch.testing.assert_close(found[0], found[other])
        torch.testing.assert_close(gradients[0], gradients[other])


@given(texts_with_answers)
@settings(max_examples=100, deadline=None)
def test_layout_holds_every_token_and_shares_the_longest_prefix(texts):
    for prompt, responses in texts:
        stem, *branches = shared_prefix(whole(prompt, responses))
        assert [stem + b for b in branches] == [prompt + r for r in responses]
        assert all(branches)
        shortest = min(len(prompt) + len(r) for r in responses)
        assert len(stem) == shortest - 1 or len({b[0] for b in branches}) > 1
    token_groups = [shared_prefix(whole(*text)) for text in texts]
    packed = pack(token_groups)
    tokens = packed.input_ids.shape[1]
    assert tokens == sum(map(count_tokens, token_groups)) == sum(packed.query_lengths)
    assert len(packed.keys) == sum(packed.key_lengths)
    rows = [prompt + response for prompt, responses in texts for response in responses]
    for row, keys in zip(rows, packed.keys.split(packed.key_lengths), strict=True):
        assert packed.input_ids[0, keys].tolist() == row
        assert packed.position_ids[0, keys].tolist() == list(range(len(row)))
    assert packed.input_ids[0, packed.ends].tolist() == [row[-1] for row in rows]


def test_groups_without_responses_are_an_error():
    for bad in ([[1, 2]], [[1, 2], [3], []]):
        with pytest.raises(ValueError, match="token group 0"):
            pack([bad])


@pytest.mark.parametrize("feature", [{"softcap": 30.0}, {"s_aux": torch.ones(2)},
                                     {"dropout": 0.1}, {"sliding_window": 4}])
def test_attention_the_layout_cannot_do_is_refused_by_name(feature):
    packed = pack([[[1, 2, 3], [4, 5], [6]]])
    q = torch.randn(1, 2, 6, 4)
    with pytest.raises(ModelError, match=next(iter(feature))):
        packed_attention(None, q, q, q, None, packed=packed, **feature)
    packed_attention(None, q, q, q, None, packed=packed, sliding_window=5)


@given(st.integers(1, 50), st.integers(1, 12), st.integers(0, 5))
def test_every_item_comes_exactly_once_per_epoch(n, batch_size, seed):
    per_epoch = -(-n // batch_size)
    epochs = [[i for step in range(per_epoch)
               for i in draw_batch(n, batch_size, seed, epoch * per_epoch + step)]
              for epoch in range(2)]
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)


def test_batches_are_random_and_reproducible():
    draws = [tuple(draw_batch(1000, 10, seed, step)) for seed in (0, 1) for step in range(200)]
    assert len(set(draws)) == len(draws)
    assert draw_batch(1000, 10, 1, 150) == list(draws[350])
    means = torch.tensor([sum(d) / 10 for d in draws])  # of random tens out of 0..999
    assert abs(means.mean() - 499.5) < 20 and 80 < means.std() < 102


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 100))
def test_micro_batches_hold_every_item_once_within_the_budget(lengths, budget):
    runs = list(micro_batches(lengths, budget))
    assert sorted(i for run in runs for i in run) == list(range(len(lengths)))
    assert all(len(run) == 1 or sum(lengths[i] for i in run) <= budget for run in runs)
