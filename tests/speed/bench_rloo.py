"""The RLOO half of `bench`: an update against TRL's RLOOTrainer, sampling against HF generate.

An update is given the same prompts, answers and rewards: log-probabilities of policy and reference,
advantages, gradient, optimizer. TRL's own sampling is replaced by those answers.
"""

import contextlib
import copy
import json
import sys
import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from bench_rm import clock, step_clock

from bsr_lite.batching import TokenGroup, count_tokens
from bsr_lite.config import ModelConfig, RLOOConfig
from bsr_lite.generate import sample
from bsr_lite.policy import Policy
from bsr_lite.studies.records import release_memory
from bsr_lite.train_rloo import sequence_logprobs, sums, update

KL_COEF = 0.05


@dataclass
class Rollouts:
    """Steps of P prompts with K answers as token_groups, and a reward for every answer."""

    steps: list[list[TokenGroup]]

    @staticmethod
    def rewards(token_groups: list[TokenGroup]) -> list[list[float]]:
        """Anything that differs within a prompt: the answers' mean token id, in thousands."""
        return [[sum(answer) / len(answer) / 1000 for answer in answers]
                for _, *answers in token_groups]


def run_ours(start: Policy, work: Rollouts) -> dict:
    """Seconds of every step, and the gradient of the first one."""
    policy = copy.deepcopy(start)
    answers = len(work.steps[0][0]) - 1
    config = RLOOConfig(ModelConfig("policy", lora_rank=start.lora_rank), "", "none",
                        num_generations=answers, kl_coef=KL_COEF, token_budget=2**30)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.0)
    seconds, first = [], None
    for token_groups in work.steps:
        started, batch = clock(policy.device), [{"token_group": t} for t in token_groups]
        with policy.reference():
            ref = sums(sequence_logprobs(policy, batch, config))
        update(policy, batch, torch.tensor(work.rewards(token_groups)), ref, config)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        first = torch.cat([p.grad.flatten() for p in trained]) if first is None else first
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(clock(policy.device) - started)
    return {"seconds": seconds, "gradient": first}


def run_trl(start: Policy, work: Rollouts, best: bool) -> dict:
    """The same through RLOOTrainer, as it comes or at its `best` (see `bench_rm`)."""
    import transformers
    from datasets import Dataset
    from trl import RLOOConfig as TRLConfig
    from trl import RLOOTrainer

    model = copy.deepcopy(start.hf)
    if not best:
        model.float()
    model.get_base_model().set_attn_implementation("sdpa")
    found: dict = {"seconds": [], "gradient": None}
    answers = len(work.steps[0][0]) - 1
    given = {tuple(token_group[0]): (token_group[1:], rewards) for token_groups in work.steps
             for token_group, rewards in zip(token_groups, work.rewards(token_groups), strict=True)}

    class Trainer(RLOOTrainer):
        def _tokenize_prompts(self, prompts):
            return [json.loads(p) for p in prompts], None, {}

        def _generate_single_turn(self, prompt_ids, *args):
            return [given[tuple(ids)][0][place % answers] for place, ids in enumerate(prompt_ids)]

    def reward(prompts, completion_ids, **options):
        return [given[tuple(json.loads(p))][1][place % answers] for place, p in enumerate(prompts)]

    class FirstGradient(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *args, **options):
            if found["gradient"] is None:
                found["gradient"] = torch.cat([p.grad.flatten() for p in model.parameters()
                                               if p.requires_grad]).float()

    rows = [{"prompt": json.dumps(prompt)} for step in work.steps for prompt, *_ in step]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        config = TRLConfig(
            folder, per_device_train_batch_size=len(work.steps[0]) * answers,
            num_generations=answers, max_steps=len(work.steps), beta=KL_COEF, learning_rate=1e-5,
            lr_scheduler_type="constant", warmup_steps=0, weight_decay=0.0, shuffle_dataset=False,
            gradient_checkpointing=not best, bf16=start.compute_dtype is torch.bfloat16,
            use_cpu=start.device.type == "cpu", report_to="none", save_strategy="no",
            logging_strategy="no", disable_tqdm=True,
            max_completion_length=max(len(a) for s in work.steps for t in s for a in t[1:]))
        tokenizer = copy.deepcopy(start.tokenizer)
        tokenizer.padding_side = "left"
        trainer = Trainer(model, reward, config, train_dataset=Dataset.from_list(rows),
                          processing_class=tokenizer, callbacks=[
                              step_clock(found["seconds"], start.device), FirstGradient()])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return found


def compare_updates(start: Policy, work: Rollouts, rounds: int) -> dict:
    """table[system]: completions a second, speed-up of ours (median, quartiles over steps and
    rounds), and how far its first gradient is from ours, relative."""
    run = {"ours": lambda: run_ours(start, work), "trl": lambda: run_trl(start, work, False),
           "trl_best": lambda: run_trl(start, work, True)}
    found: dict = {name: [] for name in run}
    for _ in range(rounds):
        for name in run:
            found[name].append(run[name]())
            release_memory()
    seconds = {name: np.array([r["seconds"][1:] for r in runs]) for name, runs in found.items()}
    ours = found["ours"][0]["gradient"]
    completions = len(work.steps[0]) * (len(work.steps[0][0]) - 1)
    return {name: {
        "completions_per_second": completions / float(np.median(seconds[name])),
        "speed_up": np.quantile(seconds[name] / seconds["ours"], [0.5, 0.25, 0.75]).tolist(),
        "gradient_difference": float((found[name][0]["gradient"] - ours).norm() / ours.norm()),
        "tokens_per_step": float(np.mean([sum(map(count_tokens, s)) for s in work.steps]))}
        for name in run}


@torch.no_grad()
def hf_generate(policy: Policy, prompts: list[list[int]], num_generations: int, length: int):
    """Plain transformers: left-padded prompts, K returned sequences, the whole distribution."""
    width = max(map(len, prompts))
    pad = policy.tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=policy.device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts],
                        device=policy.device)
    policy.causal.set_attn_implementation("sdpa")
    with policy.autocast():
        return policy.hf.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, temperature=1.0, top_k=0,
            top_p=1.0, num_return_sequences=num_generations, max_new_tokens=length,
            min_new_tokens=length, pad_token_id=pad)


def compare_sampling(policy: Policy, prompts: list[list[int]], num_generations: int, length: int,
                     rounds: int) -> dict:
    """Tokens a second of `generate.sample` and of HF generate, and their ratio by round."""
    times: dict = {"ours": [], "hf": []}
    run = {"ours": lambda: sample(policy, prompts, num_generations, length, -1,
                                  torch.Generator().manual_seed(0)),
           "hf": lambda: hf_generate(policy, prompts, num_generations, length)}
    for turn in range(rounds + 1):  # the first to warm up
        for name in run:
            started = clock(policy.device)
            run[name]()
            if turn:
                times[name].append(clock(policy.device) - started)
    tokens = len(prompts) * num_generations * length
    ratio = np.array(times["hf"]) / np.array(times["ours"])
    return {"tokens_per_second": {n: tokens / float(np.median(t)) for n, t in times.items()},
            "speed_up": np.quantile(ratio, [0.5, 0, 1]).tolist()}
