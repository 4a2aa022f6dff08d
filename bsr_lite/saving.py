"""What a saved reward model consists of, beside its Hugging Face files: metadata, a model card and
a chat template that ends where the reward is read."""

import copy
import hashlib
import json
from pathlib import Path
from urllib.parse import quote

from .embedded import quiet_loading
from .errors import ModelError
from .runlog import check_folder, writing
from .tokenization import DATE

META = "reward_model.json"
NEEDED = ("base", "depth", "lora_rank", "quantization", "dtype", "new_head", "template_hash")


# ---- chat template -------------------------------------------------------------------------------

def finished_template(template: str | None) -> str | None:
    """The chat template without what it puts after the last end-of-turn token, a newline in many.

    Plain transformers, RewardBench and TRL pool a rendered chat at its last token, which must be
    the one that the head was trained on. A template that writes today's date, as Llama-3.2's
    does, gets a fixed one: rewards must not change overnight.
    """
    if not template or "{%- set chat %}" in template:
        return template
    date = ('{%- if date_string is not defined %}{%- set date_string = "' + DATE + '" %}'
            "{%- endif %}" if "strftime_now" in template else "")
    return (date + "{%- set chat %}" + template + "{%- endset %}"
            "{{- chat if add_generation_prompt else chat.rstrip() }}")


def template_hash(tokenizer) -> str:
    """Short checksum of the chat template: rewards mean little under another one."""
    template = finished_template(tokenizer.chat_template) or ""  # the same before and after saving
    return hashlib.sha256(template.encode()).hexdigest()[:12]


def check_template(folder: str | Path, tokenizer, meta: dict) -> None:
    """Raises: ModelError when adapters were trained with another chat template."""
    if template_hash(tokenizer) != meta["template_hash"]:
        raise ModelError(f"{folder} was trained with another chat template than {meta['base']} "
                         "has now; load the base it was trained on")


# ---- model card ----------------------------------------------------------------------------------

def training_facts(config, pairs: int, steps: int, last_row: dict) -> dict:
    """What the card says of a train_rm run with this config; dev is the evaluation in the last row
    of its metrics."""
    metric = next((name for name in ("tau", "accuracy") if f"val/{name}" in last_row), None)
    dev = metric and {"metric": metric, "score": last_row[f"val/{metric}"],
                      **{key: last_row[f"val/{key}"] for key in ("low", "high", "groups")}}
    same = ("epochs", "loss", "bsr_lambda", "batch_size", "learning_rate", "seed")
    return {name: getattr(config, name) for name in same} | {
        "data": config.data.source, "pairs": pairs, "steps": steps, "dev": dev,
        "bsr_group_size": config.bsr_group_size or config.batch_size,
        "head_learning_rate": config.head_learning_rate or config.learning_rate}


def quoted(value):
    """Texts in a value as one line that breaks neither a table nor a code span: what would is
    written as in an address, such as %7C."""
    if isinstance(value, dict):
        return {key: quoted(inner) for key, inner in value.items()}
    return value if not isinstance(value, str) else "".join(
        c if c.isprintable() and c not in "`|<" else quote(c, errors="replace") for c in value)


def model_card(meta: dict) -> str:
    """Markdown card by model_card.md: base, data, objective, effective batch, template, evaluation,
    and a snippet that prints a raw reward. `meta` is reward_model.json, with `training_facts` as
    its "training" where train_rm wrote it."""
    from huggingface_hub import ModelCard, ModelCardData
    data = ModelCardData(library_name="peft" if meta["lora_rank"] else "transformers",
                         pipeline_tag="text-classification", tags=["reward-model", "bsr-lite"])
    template = Path(__file__).with_name("model_card.md")
    return str(ModelCard.from_template(data, str(template), **quoted(meta)))


# ---- a model's folder ----------------------------------------------------------------------------

def check_target(folder: str | Path) -> Path:
    """The absolute path of a folder that a model can be saved to; its parent is made.

    Raises: ModelError for a file, and for a folder that holds anything but a saved model;
    ConfigError where nothing can be written."""
    folder = Path(folder).resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())
                            and not (folder / META).exists()):
        raise ModelError(f"{folder} holds other files: save into a new folder")
    check_folder(folder.parent)
    return folder


def save_reward_model(model, folder: str | Path, weights: dict | None = None) -> None:
    """Adapters and head for LoRA, the standard sequence-classification layout otherwise.
    weights: the gathered state dict of a model that holds a shard of it only.

    Replaces an earlier model in `folder`, of which no file may stay.  Raises: ModelError when it
    holds anything else, WriteError on a full disk.
    """
    folder = check_target(folder)
    options = {"save_embedding_layers": False} if model.meta["lora_rank"] else {}
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = finished_template(tokenizer.chat_template)
    meta = model.meta | {"new_head": False, "template_hash": template_hash(model.tokenizer)}
    with writing(folder) as whole:
        with quiet_loading():
            model.hf.save_pretrained(whole, state_dict=weights, **options)
            tokenizer.save_pretrained(whole)
        (whole / META).write_text(json.dumps(meta, indent=2) + "\n")
        (whole / "README.md").write_text(model_card(meta), encoding="utf-8")


def weights_fingerprint(folder: str | Path) -> str:
    """Checksum of a saved model's weights, to tell whether it is what an earlier run saw."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_meta(folder: Path) -> dict:
    """Raises: ModelError when `folder` was not written by `save_reward_model`."""
    try:
        meta = json.loads((folder / META).read_text())
        return {name: meta[name] for name in NEEDED} | meta
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / META} cannot be read ({error}): save the model again, or "
                         "name a folder written by save_reward_model") from error


def saved_meta(name: str, **asked) -> dict | None:
    """The metadata of a folder written by `save_reward_model`, None for any other name.

    Raises: ModelError when something else is asked of it than it was saved with."""
    if not (Path(name) / META).exists():
        return None
    meta = read_meta(Path(name))
    if other := {k: meta.get(k) for k, value in asked.items() if value and value != meta.get(k)}:
        raise ModelError(f"{name} is a saved model, with {other}: it is loaded as it was saved; "
                         f"leave out {', '.join(other)}")
    return meta
