"""One complete YAML per run, read strictly: what is misspelt or impossible fails before anything
is loaded. `--set key=value` overrides single values (dots reach into sections)."""

import argparse
import dataclasses
import difflib
import functools
import json
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from .data import GROUP_FORMATS, PAIR_FORMATS
from .errors import ConfigError
from .losses import PARAMETERS, check_loss, preference_loss
from .sources import distinct

SCENARIOS = ("in_domain", "prompt_disjoint", "response_disjoint", "mutual_disjoint")
Part = Literal[(*SCENARIOS, "dev_prompt_disjoint", "dev_mutual_disjoint",
                "prompt_shifted", "dev_prompt_shifted", "train")]  # shifted: of `studies.shifts`
Count = Annotated[int, Field(ge=1, lt=2**31)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Several = Annotated[int, Field(ge=2, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Folder = Annotated[str, Field(min_length=1)]
# a section of a YAML: unknown keys and values of another type are refused
section = dataclass(config=ConfigDict(extra="forbid", strict=True))


@section
class ModelConfig:
    """See `models.load_reward_model`."""

    name: str
    depth: Count | None = None
    lora_rank: Count | None = None
    quantization: Literal["nf4"] | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"
    # true: all layers; a number: the first so many
    gradient_checkpointing: bool | Annotated[int, Field(ge=0)] = False
    layout: Literal["packed", "padded"] = "packed"  # padded: for attention that packed rows refuse

    def __post_init__(self):
        if self.quantization and not self.lora_rank:
            raise ValueError("4-bit weights cannot be trained: set lora_rank with quantization")


@section
class DataConfig:
    """Where the preferences come from and how they are split.

    A group format (pocket, ultrafeedback, judged, alpaca_eval) becomes the four scenarios; a pair
    format (trl, skywork) has labels already, and its first `dev_share` serves as dev.
    """

    source: str
    format: Literal[(*GROUP_FORMATS, *PAIR_FORMATS)] = "pocket"
    valid_models: list[str] = Field(default_factory=list)  # names, or families such as gpt-*
    label_temperature: Weight = 0.0  # of the Bradley-Terry label draw on the gold scores
    max_length: Several = 512  # tokens of prompt + response; longer: dropped
    max_pairs: Count | None = None  # train (and validate in domain) on a random part
    dev_share: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    valid_share: Annotated[float, Field(ge=0, le=0.5)] = 0.2  # of prompts, where there is no split
    seed: Seed = 0  # of split, pairs and labels; the same in every run of a comparison

    def __post_init__(self):
        idle = [name for name in ("valid_models", "label_temperature") if getattr(self, name)]
        if self.format in PAIR_FORMATS and idle:
            raise ValueError(f"{', '.join(idle)}: no effect on pairs, which have their labels; set "
                             "data.valid_models=[] data.label_temperature=0")


@section
class RewardModelConfig:
    """One reward-model training run."""

    model: ModelConfig
    data: DataConfig
    output_dir: Folder
    loss: Literal[tuple(PARAMETERS)] = "bt"
    bsr_lambda: float | None = None  # None: 1e-3, the paper's default, when loss is bsr
    bsr_group_size: Count | None = None  # pairs; None: the whole optimizer batch
    centering_coefficient: float | None = None
    l2_coefficient: float | None = None
    target_margin: float | None = None
    seed: Seed = 0  # of head, adapters and batch order
    epochs: Count = 1
    batch_size: Count = 32  # pairs of an optimizer step
    token_budget: Count = 4096  # tokens of a micro-batch: how a batch is computed, not what
    learning_rate: Rate = 2e-4
    head_learning_rate: Rate | None = None  # None: learning_rate
    optimizer: Literal["adamw", "paged_adamw_8bit"] = "adamw"  # paged: 2 bytes a weight, on a GPU
    warmup_ratio: Annotated[float, Field(ge=0, le=0.99)] = 0.05
    max_grad_norm: Rate = 1.0
    eval_every: Count = 20  # optimizer steps between dev evaluations and checkpoints
    eval_groups: Count = 60  # dev groups scored each time
    watch: list[Part] = Field(default_factory=list)  # sets scored each time and before step 1, with
    # their norms, to see them change
    report_to: str | None = None  # a tracker beside metrics.jsonl: tensorboard, wandb, ...

    def __post_init__(self):
        if self.loss == "bsr" and self.bsr_lambda is None:
            self.bsr_lambda = 1e-3
        self.objective()
        if self.bsr_group_size and self.batch_size % self.bsr_group_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of bsr_group_size "
                             f"{self.bsr_group_size}: groups would differ in size")
        if self.token_budget < self.data.max_length:
            raise ValueError(f"token_budget {self.token_budget} is below data.max_length "
                             f"{self.data.max_length}: one response could not fit")

    def objective(self):
        """The loss of (rewards_chosen, rewards_rejected), all its parameters filled in."""
        names = ("bsr_group_size", *filter(None, PARAMETERS.values()))
        chosen = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        check_loss(self.loss, **chosen)
        return functools.partial(preference_loss, self.loss, **chosen)


@section
class RLOOConfig:
    """One run of `train_rloo`."""

    policy: ModelConfig
    reward_model: str  # folder of save_reward_model
    output_dir: Folder
    gold: str | None = "pocket"  # tracked, never trained on: pocket, a reward model, or none
    trust_remote_code: bool = False  # of a gold reward model that brings its own code
    data: str = "data/pocket/pocket.jsonl.gz"
    split: str = "train"
    steps: Count = 40
    prompts_per_step: Count = 8
    num_generations: Several = 4  # K answers a prompt; one has no others
    max_prompt_tokens: Count = 512  # longer prompts are left out and counted
    max_new_tokens: Count = 48
    minibatches: Count = 1  # optimizer steps on one batch of answers
    kl_coef: Weight = 0.05  # nats of sum_t log pi / pi_ref to reward units
    clip_range: Rate | None = None  # of whole answers' ratios; they are 1 with one minibatch
    missing_eos_penalty: Weight = 1.0  # reward units off for an answer that did not end
    standardize_prompts: Annotated[int, Field(ge=0)] = 32  # whose reference answers set the proxy's
    # zero and unit; 0: raw
    token_budget: Count = 4096
    learning_rate: Rate = 1e-4
    warmup_ratio: Annotated[float, Field(ge=0, le=0.99)] = 0.03
    max_grad_norm: Rate = 1.0
    checkpoint_every: Count = 10
    seed: Seed = 0

    def __post_init__(self):
        if self.policy.lora_rank is None:
            raise ValueError("set policy.lora_rank: the reference is the policy with LoRA off")
        for name in ("depth", "layout", "gradient_checkpointing"):
            if getattr(self.policy, name) != getattr(ModelConfig, name):
                raise ValueError(f"leave policy.{name} out: a policy samples and trains whole, in "
                                 "packed rows; lower token_budget to save memory")
        if self.prompts_per_step % self.minibatches:
            raise ValueError(f"prompts_per_step {self.prompts_per_step} is not a multiple of "
                             f"minibatches {self.minibatches}")


# ---- reading -------------------------------------------------------------------------------------

class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text; YAML 1.2, JSON and everybody else read a number. A key that is
    there twice is an error."""

    def construct_mapping(self, node, deep=False):
        distinct([(key.value, value) for key, value in node.value])
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float",
                              re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def read_yaml(path: str | Path) -> dict:
    """The key-value lines of a YAML file.  Raises: ConfigError."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except Exception as error:  # what YAML raises is of all kinds
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines")
    return values


def load_config(path: str | Path, cls=RewardModelConfig, overrides: list[str] = ()):
    """Read a YAML into `cls` with `key=value` overrides.  Raises: ConfigError."""
    values = read_yaml(path)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: write key=value")
        *sections, last = key.strip().split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {override}: {section} is no section")
        try:
            target[last] = yaml.load(text, _Loader)
        except Exception as error:
            raise ConfigError(f"--set {override}: {text!r} is no YAML value") from error
    return parse(values, cls, str(path))


def parse(values: dict, cls, where: str):
    """A dataclass from nested dicts, with every key and type checked.  Raises: ConfigError."""
    try:  # strict, but as JSON: there a section of keys is an object
        text = json.dumps(values, default=str)
        if "\\u0000" in text:
            raise ValueError("a value holds a NUL character")
        return TypeAdapter(cls).validate_json(text)
    except ValidationError as error:
        found = dict.fromkeys(_complaint(e, cls) for e in error.errors())
        raise ConfigError(f"{where}: {'; '.join(found)}") from None
    except (TypeError, ValueError, RecursionError) as error:  # odd keys, a section inside itself
        raise ConfigError(f"{where}: {error}") from error


def _complaint(error: dict, cls) -> str:
    """One of pydantic's errors in a config's words."""
    path = [str(part) for part in error["loc"] if part not in ("bool", "constrained-int")]
    name = ".".join(path)
    if error["type"] == "unexpected_keyword_argument":
        for section in path[:-1]:
            cls = cls.__dataclass_fields__[section].type
        known = list(cls.__dataclass_fields__)
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        return f"unknown key {path[-1]!r}; {hint}"
    if error["type"] == "missing":
        return f"missing {name}"
    message = error["msg"].replace("Input should be", "must be").removeprefix("Value error, ")
    message = message.replace("a valid array", "a list").replace("an object", "a section of keys")
    if error["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name} {message}, got {error['input']!r:.60}"


def with_dtype(config, model: str, dtype: str):
    """The config of a run with the number format that was chosen for its section `model`, so that a
    record, and a run that goes on elsewhere, know it."""
    section = dataclasses.replace(getattr(config, model), dtype=dtype)
    return dataclasses.replace(config, **{model: section})


def to_dict(config) -> dict:
    """Plain nested dicts, as they are written to a run's config.yaml."""
    return dataclasses.asdict(config)


def command_line(command: str, doc: str, yaml_of: str) -> argparse.ArgumentParser:
    """The parser of a command that takes a YAML: --config FILE [--set KEY=VALUE ...]."""
    parser = argparse.ArgumentParser(f"python -m bsr_lite.{command}", description=doc,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help=f"YAML of {yaml_of}")
    parser.add_argument("--set", nargs="*", action="extend", default=[], dest="overrides",
                        metavar="KEY=VALUE", help="override single values, e.g. model.depth=4")
    return parser
