"""One complete YAML per run, read strictly: what is misspelt or impossible fails before anything
is loaded. `--set key=value` overrides single values (dots reach into sections)."""

import dataclasses
import difflib
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .losses import LOSS_PARAMETERS, LossKind, check_loss
from .scenarios import SCENARIOS


class ConfigError(ValueError):
    """A config that cannot be run; the message names the file, the key and the fix."""


def in_range(name: str, value: float | None, low: float, high: float = 1e12) -> None:
    """Raises: ValueError unless value is None or in [low, high]; NaN is in no range."""
    if value is not None and not low <= value <= high:
        raise ValueError(f"{name} must be at least {low:g}" +
                         (f" and at most {high:g}" if high < 1e12 else "") + f", got {value}")


def check_parts(names: list[str], *more: str) -> None:
    """Raises: ValueError unless every name is a validation set, a dev set or one of `more`."""
    known = (*more, *SCENARIOS, "dev_prompt_disjoint", "dev_mutual_disjoint")
    for name in names:
        if name not in known:
            raise ValueError(f"unknown scenario {name}; choose from {', '.join(known)}")


@dataclass
class ModelConfig:
    """See `models.load_reward_model`."""

    name: str
    depth: int | None = None
    lora_rank: int | None = None
    quantization: str | None = None
    dtype: str = "bfloat16"
    gradient_checkpointing: bool | int = False  # true: all layers; a number: the first so many
    layout: str = "forest"  # packed rows; padded: for attention that they refuse

    def __post_init__(self):
        in_range("depth", self.depth, 1)
        in_range("lora_rank", self.lora_rank, 1)
        in_range("gradient_checkpointing", self.gradient_checkpointing, 0)
        if self.layout not in ("forest", "padded"):
            raise ValueError(f"layout must be forest or padded, got {self.layout!r}")
        if self.dtype not in ("bfloat16", "float32"):
            raise ValueError(f"dtype must be bfloat16 or float32, got {self.dtype!r}")
        if self.quantization not in (None, "nf4"):
            raise ValueError(f"quantization must be nf4 or left out, got {self.quantization!r}")
        if self.quantization and not self.lora_rank:
            raise ValueError("4-bit weights cannot be trained: set lora_rank with quantization")


@dataclass
class DataConfig:
    """Where the preferences come from and how they are split.

    A group format (pocket, ultrafeedback, judged, alpaca_eval) becomes the four scenarios; a pair
    format (trl, skywork) has labels already, and its first `dev_share` serves as dev.
    """

    source: str
    format: str = "pocket"
    valid_models: list[str] = field(default_factory=list)  # names, or families such as gpt-*
    label_temperature: float = 0.0  # of the Bradley-Terry label draw on the gold scores
    max_length: int = 512  # tokens of prompt + response; longer pairs are dropped and counted
    max_pairs: int | None = None  # train (and validate in domain) on a random part
    dev_share: float = 0.05
    valid_share: float = 0.2  # of prompts, for sources without a split of their own
    seed: int = 0  # of split, pairs and labels; the same in every run of a comparison

    def __post_init__(self):
        in_range("max_length", self.max_length, 2)
        in_range("max_pairs", self.max_pairs, 1)
        in_range("label_temperature", self.label_temperature, 0)
        in_range("dev_share", self.dev_share, 0, 0.5)
        in_range("valid_share", self.valid_share, 0, 0.5)


@dataclass
class RewardModelConfig:
    """One reward-model training run."""

    model: ModelConfig
    data: DataConfig
    output_dir: str
    loss: str = "bt"
    bsr_lambda: float | None = None  # None: 1e-3, the paper's default, when loss is bsr
    bsr_group_size: int | None = None  # pairs; None: the whole optimizer batch
    centering_coefficient: float | None = None
    l2_coefficient: float | None = None
    target_margin: float | None = None
    seed: int = 0  # of head, adapters and batch order
    epochs: int = 1
    batch_size: int = 32  # pairs of an optimizer step
    token_budget: int | None = None  # tokens of a micro-batch, how a batch is computed, not what;
    # None: as memory allows, by `token_budget`
    learning_rate: float = 2e-4
    head_learning_rate: float | None = None  # None: learning_rate
    optimizer: str = "adamw"  # or paged_adamw_8bit: 2 bytes of state a weight, on a GPU
    weight_decay: float = 0.0
    warmup_ratio: float = 0.05
    max_grad_norm: float = 1.0
    eval_every: int = 20  # optimizer steps between dev evaluations and checkpoints
    eval_groups: int = 60  # dev groups scored each time
    watch: list[str] = field(default_factory=list)  # sets scored each time and before step 1, with
    # their norms, to see them change: train, in_domain, prompt_disjoint, ...
    report_to: str | None = None  # a tracker beside metrics.jsonl: tensorboard, wandb, ...

    def __post_init__(self):
        if self.loss == LossKind.BSR and self.bsr_lambda is None:
            self.bsr_lambda = 1e-3
        check_loss(self.loss, bsr_lambda=self.bsr_lambda, bsr_group_size=self.bsr_group_size,
                   centering_coefficient=self.centering_coefficient,
                   l2_coefficient=self.l2_coefficient, target_margin=self.target_margin)
        for name in ("epochs", "batch_size", "token_budget", "eval_every", "eval_groups"):
            in_range(name, getattr(self, name), 1)
        for name in ("learning_rate", "head_learning_rate", "max_grad_norm"):
            in_range(name, getattr(self, name), 1e-12)
        in_range("weight_decay", self.weight_decay, 0)
        if self.optimizer not in ("adamw", "paged_adamw_8bit"):
            raise ValueError(f"optimizer must be adamw or paged_adamw_8bit, got {self.optimizer!r}")
        in_range("warmup_ratio", self.warmup_ratio, 0, 0.99)
        if self.bsr_group_size and self.batch_size % self.bsr_group_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of bsr_group_size "
                             f"{self.bsr_group_size}: groups would differ in size")
        check_parts(self.watch, "train")
        if self.token_budget and self.token_budget < self.data.max_length:
            raise ValueError(f"token_budget {self.token_budget} is below data.max_length "
                             f"{self.data.max_length}: one response could not fit")


@dataclass
class StudyConfig:
    """Methods x seeds on one base config; `common` overrides it for every method, `methods` maps
    a name to that method's overrides. The first method is the one the others are compared to."""

    base: str  # path of a RewardModelConfig YAML, relative to the study's file
    methods: dict
    seeds: list[int]
    output_dir: str
    common: dict = field(default_factory=dict)
    eval_groups: int | None = None  # random groups per scenario; None: all
    scenarios: list[str] = field(default_factory=lambda: list(SCENARIOS))

    def __post_init__(self):
        if not (self.methods and self.seeds and self.scenarios):
            raise ValueError("a study needs at least one method, one seed and one scenario")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {self.seeds} repeat: no interval could be trusted")
        for name, overrides in self.methods.items():
            if not re.fullmatch(r"[\w.-]+", str(name)) or not isinstance(name, str):
                raise ValueError(f"method {name!r}: use a name of letters, digits, dash and dot")
            if not isinstance(overrides, dict | None):
                raise ValueError(f"method {name}: must be a section of overrides, or empty")
        if self.eval_groups is not None and self.eval_groups < 1:
            raise ValueError(f"eval_groups must be at least 1, got {self.eval_groups}")
        check_parts(self.scenarios)


@dataclass
class FrozenConfig:
    """A study on frozen features (`bsr_lite.frozen`): objectives x many seeds of an MLP head. Each
    of `methods` holds `preference_loss`'s kind as `loss` and its parameter; the others are
    compared to the first."""

    base: str  # path of a RewardModelConfig YAML, for its model (untrained) and data
    methods: dict
    output_dir: str
    base_set: list[str] = field(default_factory=list)  # key=value overrides of the base
    seeds: int = 50
    width: int = 64  # hidden units
    epochs: int = 4
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    eval_groups: int | None = None  # random groups per scenario; None: all
    scenarios: list[str] = field(default_factory=lambda: list(SCENARIOS))

    def __post_init__(self):
        for name in ("width", "epochs", "batch_size", "eval_groups"):
            in_range(name, getattr(self, name), 1)
        in_range("seeds", self.seeds, 2)
        in_range("learning_rate", self.learning_rate, 1e-12)
        in_range("weight_decay", self.weight_decay, 0)
        check_parts(self.scenarios, "train")
        if not self.methods:
            raise ValueError("a study needs at least one method")
        for name, objective in self.methods.items():
            if not isinstance(objective, dict) or "loss" not in objective:
                raise ValueError(f"method {name}: must be a section with `loss`")
            for key, value in objective.items():
                if key not in ("loss", "bsr_group_size", *LOSS_PARAMETERS.values()):
                    raise ValueError(f"method {name}: {key} is no parameter of an objective")
                if key in LOSS_PARAMETERS.values():
                    objective[key] = float(value)
            check_loss(objective["loss"], **{k: v for k, v in objective.items() if k != "loss"})


def read_yaml(path: str | Path) -> dict:
    """The key-value lines of a YAML file.  Raises: ConfigError."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
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
            target[last] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {override}: {text!r} is no YAML value") from error
    return parse(values, cls, str(path))


def parse(values: dict, cls, where: str):
    """A dataclass from nested dicts, with every key and type checked.  Raises: ConfigError."""
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.5)
            raise ConfigError(f"{where}: unknown key {key!r}" +
                              (f"; did you mean {near[0]!r}?" if near else
                               f"; known keys: {', '.join(hints)}"))
    required = {f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING
                and f.default_factory is dataclasses.MISSING}
    if required - values.keys():
        raise ConfigError(f"{where}: missing {', '.join(sorted(required - values.keys()))}")
    kwargs = {key: _typed(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**kwargs)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _typed(value, hint, where: str):
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be a section of `key: value` lines")
        return parse(value, hint, where)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        base = typing.get_origin(option) or option
        if option is float and isinstance(value, int | str) and not isinstance(value, bool):
            try:  # YAML 1.1 reads 1e-3 as text and 1 as an integer
                return float(value)
            except ValueError:
                continue
        if isinstance(value, base) and not (isinstance(value, bool) and base is not bool):
            if base is list:
                return [_typed(v, typing.get_args(option)[0], where) for v in value]
            return value
    names = " or ".join(getattr(o, "__name__", str(o)).replace("NoneType", "null") for o in options)
    raise ConfigError(f"{where} must be {names}, got {value!r}")


def to_dict(config) -> dict:
    """Plain nested dicts, as they are written to a run's config.yaml."""
    return dataclasses.asdict(config)
