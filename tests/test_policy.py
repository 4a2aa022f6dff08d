import json

import pytest
import torch
from conftest import assert_close_in_norm

from bsr_lite.batching import answer_positions, pack
from bsr_lite.errors import ModelError
from bsr_lite.generate import sample
from bsr_lite.models import load_reward_model, rewards
from bsr_lite.policy import SharedRewardModel, load_policy, reward_model_for
from bsr_lite.saving import save_reward_model

TREES = [[[5, 6, 7, 8], [9, 10, 2], [11, 2], [9, 9, 9, 9, 9]], [[12, 13], [14, 15, 2], [14, 2]]]


def stir(policy, scale=0.3):
    """Give the trained adapter something to say."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in policy.hf.named_parameters():
            if "lora_B.default" in name:
                p.normal_(0, scale)


@pytest.fixture
def policy(tiny_path):
    return load_policy(tiny_path, lora_rank=4, dtype="float32")


def weights(policy, but="nothing"):
    """All parameters as one vector, but for an adapter's."""
    return torch.cat([p.detach().flatten() for name, p in policy.named_parameters()
                      if f".{but}." not in name])


def plain_logprobs(model, prompt, answer):
    logits = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
    return logits[torch.arange(len(prompt) - 1, len(prompt) + len(answer) - 1), answer]


def test_rows_name_the_token_before_every_answer_token():
    packed, lengths = pack(TREES), [3, 2, 5, 3, 2]
    sources, targets = answer_positions(packed, lengths)
    ids = packed.input_ids[0]
    assert ids[sources].tolist() == [8, 9, 10, 8, 11, 8, 9, 9, 9, 9, 13, 14, 15, 13, 14]
    assert targets.tolist() == [t for _, *answers in TREES for a in answers for t in a]
    assert packed.position_ids[0, sources].tolist() == [3, 4, 5, 3, 4, 3, 4, 5, 6, 7, 1, 2, 3, 1, 2]


def test_logprobs_and_gradients_are_those_of_plain_rows(policy, tiny_path):
    stir(policy)
    found = policy.logprobs(TREES)
    torch.cat(found).sum().backward()
    trained = {n: p for n, p in policy.named_parameters() if p.grad is not None}
    ours = torch.cat([p.grad.flatten() for p in trained.values()])
    policy.zero_grad()
    policy.causal.set_attn_implementation("sdpa")
    pairs = [(t[0], a) for t in TREES for a in t[1:]]
    expected = [plain_logprobs(policy.causal, p, a) for p, a in pairs]
    for a, b in zip(found, expected, strict=True):
        assert_close_in_norm(a, b)
    torch.cat(expected).sum().backward()
    assert trained and all("lora_" in n for n in trained)
    assert_close_in_norm(ours, torch.cat([p.grad.flatten() for p in trained.values()]))


def test_the_reference_is_the_untrained_model_to_the_bit(policy, one_thread):
    before = torch.cat(policy.logprobs(TREES))
    stir(policy)
    assert (torch.cat(policy.logprobs(TREES)) - before).abs().max() > 0.01
    with policy.reference():
        assert torch.equal(torch.cat(policy.logprobs(TREES)), before)
    with pytest.raises(ModelError, match=r"set policy\.lora_rank"), \
            load_policy(policy.causal.config._name_or_path).reference():
        pass


def test_a_saved_policy_is_the_same_policy(policy, tmp_path):
    stir(policy)
    policy.save(tmp_path / "p")
    again = load_policy(str(tmp_path / "p"), dtype="float32")
    assert torch.equal(weights(again), weights(policy))
    assert_close_in_norm(torch.cat(again.logprobs(TREES)), torch.cat(policy.logprobs(TREES)))
    with again.reference(), policy.reference():
        assert_close_in_norm(torch.cat(again.logprobs(TREES)), torch.cat(policy.logprobs(TREES)))


@pytest.fixture
def saved(tiny_path, tmp_path):
    def save(**options):
        model = load_reward_model(tiny_path, dtype="float32", seed=3, **options)
        with torch.no_grad():
            for name, p in model.named_parameters():
                if "lora_B" in name:
                    p.normal_(0, 0.3)
        save_reward_model(model, tmp_path / "rm")
        return model, str(tmp_path / "rm")
    return save


def test_a_reward_model_of_the_same_base_becomes_a_second_adapter(policy, saved, tiny_path,
                                                                  one_thread):
    stir(policy)
    alone, folder = saved(lora_rank=2)
    before, weights = torch.cat(policy.logprobs(TREES)), sum(
        p.numel() for p in policy.parameters())
    shared = reward_model_for(policy, folder, tiny_path)
    assert isinstance(shared, SharedRewardModel)
    assert_close_in_norm(rewards(shared, pack(TREES)), rewards(alone, pack(TREES)), unit=1)
    assert torch.equal(torch.cat(policy.logprobs(TREES)), before)  # the policy is as it was
    trained = {n for n, p in policy.named_parameters() if p.requires_grad}
    assert trained and all(".default." in n for n in trained)
    grown = sum(p.numel() for p in policy.parameters()) - weights
    assert 0 < grown < 0.2 * weights  # an adapter, not a second backbone
    with policy.reference():
        reference = torch.cat(policy.logprobs(TREES))
    assert (reference - before).abs().max() > 0.01


def test_saving_a_policy_leaves_the_reward_adapter_out(policy, saved, tiny_path, tmp_path):
    _, folder = saved(lora_rank=2)
    reward_model_for(policy, folder, tiny_path)
    policy.save(tmp_path / "p")
    assert not (tmp_path / "p" / "reward").exists()
    again = load_policy(str(tmp_path / "p"), dtype="float32")
    assert torch.equal(weights(again), weights(policy, but="reward"))


@pytest.mark.parametrize("options", [{"lora_rank": 2, "depth": 2}, {}], ids=["cut", "full"])
def test_another_reward_model_keeps_its_own_weights_and_is_frozen(policy, saved, tiny_path,
                                                                  options):
    alone, folder = saved(**options)
    other = reward_model_for(policy, folder, tiny_path)
    assert not isinstance(other, SharedRewardModel)
    assert not any(p.requires_grad for p in other.parameters())
    assert_close_in_norm(rewards(other, pack(TREES)), rewards(alone, pack(TREES)), unit=1)


def test_models_that_packed_rows_get_wrong_are_refused_by_name(tiny_path, tmp_path):
    """Scaled logits, capped attention, a window: silently another distribution otherwise."""
    from transformers import (
        AutoTokenizer,
        Gemma2Config,
        Gemma2ForCausalLM,
        GPT2Config,
        GPT2LMHeadModel,
        GraniteConfig,
        GraniteForCausalLM,
    )
    sizes = dict(vocab_size=49152, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                 num_attention_heads=2, num_key_value_heads=1)
    models = {"granite": GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=8.0,
                                                          initializer_range=1.0)),
              "gemma2": Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8)),
              "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=49152, n_embd=16, n_layer=1, n_head=2))}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(tiny_path).save_pretrained(tmp_path / name)
        with pytest.raises(ModelError, match=f"{name} cannot be computed in packed rows"):
            load_policy(str(tmp_path / name), dtype="float32")


def test_a_window_shorter_than_the_text_is_refused_while_sampling(tiny_path, tmp_path):
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM
    model = MistralForCausalLM(MistralConfig(
        vocab_size=49152, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=12))
    model.save_pretrained(tmp_path / "m")
    AutoTokenizer.from_pretrained(tiny_path).save_pretrained(tmp_path / "m")
    policy = load_policy(str(tmp_path / "m"), dtype="float32")
    generator = torch.Generator().manual_seed(0)
    sample(policy, [[5, 6]], 2, 8, -1, generator)
    with pytest.raises(ModelError, match="sliding_window 12"):
        sample(policy, [[5, 6]], 2, 11, -1, generator)


def test_a_checkpoint_without_its_head_is_no_policy(saved, tmp_path):
    _, folder = saved()
    (tmp_path / "rm" / "reward_model.json").unlink()
    config = json.loads((tmp_path / "rm" / "config.json").read_text())
    (tmp_path / "rm" / "config.json").write_text(json.dumps(config | {
        "tie_word_embeddings": False}))
    with pytest.raises(ModelError, match="lack lm_head"):
        load_policy(folder, dtype="float32")


def test_a_shared_reward_model_needs_its_own_chat_template(policy, saved, tiny_path):
    _, folder = saved(lora_rank=2)
    policy.tokenizer.chat_template += " "
    with pytest.raises(ModelError, match="another chat template"):
        reward_model_for(policy, folder, tiny_path)


def test_what_is_no_policy_or_no_reward_model_is_refused(policy, saved, tiny_path):
    _, folder = saved(lora_rank=2)
    with pytest.raises(ModelError, match="is a reward model, not a policy"):
        load_policy(folder)
    saved()
    with pytest.raises(ModelError, match="is a reward model, not a policy"):
        load_policy(folder)
    with pytest.raises(ModelError, match="no folder that save_reward_model wrote"):
        reward_model_for(policy, tiny_path, tiny_path)
    with pytest.raises(ModelError, match="cannot load ./nowhere"):
        load_policy("./nowhere")
