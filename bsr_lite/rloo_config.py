"""The YAML of an RLOO run."""

from dataclasses import dataclass

from .config import ModelConfig, in_range


@dataclass
class RLOOConfig:
    """One run of `train_rloo`."""

    policy: ModelConfig
    reward_model: str  # folder of save_reward_model
    output_dir: str
    gold: str | None = "pocket"  # tracked, never trained on: pocket, a reward model, or none
    trust_remote_code: bool = False  # of a gold reward model that brings its own code
    data: str = "data/pocket/pocket.jsonl.gz"
    split: str = "train"
    steps: int = 40
    prompts_per_step: int = 8
    num_generations: int = 4  # K answers a prompt
    max_new_tokens: int = 48
    minibatches: int = 1  # optimizer steps on one batch of answers
    kl_coef: float = 0.05  # nats of sum_t log pi / pi_ref to reward units
    clip_range: float | None = None  # of whole answers' ratios; they are 1 with one minibatch
    missing_eos_penalty: float = 1.0  # reward units off for an answer that did not end
    standardize_prompts: int = 32  # whose reference answers set the proxy's zero and unit; 0: raw
    token_budget: int = 4096
    learning_rate: float = 1e-4
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    checkpoint_every: int = 10
    seed: int = 0

    def __post_init__(self):
        for name in ("steps", "prompts_per_step", "max_new_tokens", "minibatches", "token_budget",
                     "checkpoint_every"):
            in_range(name, getattr(self, name), 1)
        in_range("num_generations", self.num_generations, 2)  # leave-one-out needs others
        for name in ("kl_coef", "missing_eos_penalty", "standardize_prompts"):
            in_range(name, getattr(self, name), 0)
        for name in ("learning_rate", "max_grad_norm", "clip_range"):
            in_range(name, getattr(self, name), 1e-12)
        in_range("warmup_ratio", self.warmup_ratio, 0, 0.99)
        if self.policy.lora_rank is None:
            raise ValueError("set policy.lora_rank: the reference is the policy with LoRA off")
        if self.policy.depth is not None:
            raise ValueError("leave policy.depth out: a policy needs its last layers to write")
        if self.policy.layout != "forest":
            raise ValueError("leave policy.layout out: a policy samples and trains in packed rows")
        if self.policy.gradient_checkpointing:
            raise ValueError("leave policy.gradient_checkpointing out: it is not used here; lower "
                             "token_budget")
        if self.prompts_per_step % self.minibatches:
            raise ValueError(f"prompts_per_step {self.prompts_per_step} is not a multiple of "
                             f"minibatches {self.minibatches}")
