"""What a saved reward model consists of, beside its Hugging Face files: metadata, model card and a
finished chat template."""

import copy
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from .embedded import quiet_loading
from .errors import ModelError

DATE = "26 Jul 2024"  # what Llama's templates write where they have no clock


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


def training_facts(config, pairs: int, steps: int, last_row: dict) -> dict:
    """What the card says of a train_rm run with this config; dev is the evaluation in the last row
    of its metrics."""
    metric = next((name for name in ("tau", "accuracy") if f"val/{name}" in last_row), None)
    dev = metric and {"metric": metric, "score": last_row[f"val/{metric}"], **{
        key: last_row[f"val/{key}"] for key in ("low", "high", "groups")}}
    return {"data": config.data.source, "pairs": pairs, "epochs": config.epochs, "steps": steps,
            "loss": config.loss, "bsr_lambda": config.bsr_lambda,
            "bsr_group_size": config.bsr_group_size or config.batch_size,
            "batch_size": config.batch_size, "learning_rate": config.learning_rate,
            "head_learning_rate": config.head_learning_rate or config.learning_rate,
            "seed": config.seed, "dev": dev}


def model_card(meta: dict) -> str:
    """Markdown card: base, data, objective, effective batch, template, evaluation, and a snippet
    that prints a raw reward. `meta` is reward_model.json; its "training" is written by train_rm.
    """
    training = meta.get("training", {})
    adapters = bool(meta["lora_rank"])
    rows = {"base": f"`{meta['base']}`" + (f", first {meta['depth']} layers" if meta["depth"]
                                           else ""),
            "weights": _weights(meta),
            "chat template (sha256)": f"`{meta['template_hash']}`", **_training_rows(training)}
    objective = {"bsr": "Bradley-Terry + BSR", "bt": "Bradley-Terry"}.get(
        training.get("loss"), training.get("loss", "reward"))
    lines = ["---", f"library_name: {'peft' if adapters else 'transformers'}",
             "pipeline_tag: text-classification", "tags: [reward-model, bsr-lite]", "---", "",
             f"# A reward model ({objective})", "",
             "r(x, y) = W_p . h(x, y), the last hidden state at the answer's last token (Eq. 2 of "
             '"On the Robustness of Reward Models for Language Model Alignment"). Compare rewards '
             "of answers to one prompt; across prompts they carry an arbitrary shift.", "",
             "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items()), "",
             "## A raw score", "", "```python", *(ADAPTER_SNIPPET if adapters else PLAIN_SNIPPET),
             "```"]
    return "\n".join(lines) + "\n"


def _weights(meta: dict) -> str:
    if not meta["lora_rank"]:
        return f"all, fp32; trained in {meta.get('trained_dtype', meta['dtype'])}"
    held = "NF4, double quantization" if meta["quantization"] else meta["dtype"]
    return f"LoRA adapters of rank {meta['lora_rank']} and the head, fp32; base held in {held}"


def _training_rows(training: dict) -> dict[str, str]:
    if not training:
        return {"training": "not recorded: saved outside train_rm"}
    rows = {"data": f"`{training['data']}`, {training['pairs']} pairs, {training['epochs']} "
                    "epoch(s)", "objective": f"`{training['loss']}`"}
    if training["bsr_lambda"]:
        rows["lambda"] = (f"{training['bsr_lambda']:g} on groups of "
                          f"{training['bsr_group_size']} pairs")
    rows["effective batch"] = f"{training['batch_size']} pairs a step, {training['steps']} steps"
    rows["learning rate"] = (f"{training['learning_rate']:g}, head "
                             f"{training['head_learning_rate']:g}; seed {training['seed']}")
    dev = training.get("dev")
    rows["evaluation (dev)"] = "none" if not dev else (
        f"{dev['metric']} {dev['score']:.3f} ({dev['low']:.3f} to {dev['high']:.3f}, 95% over "
        f"{dev['groups']} prompts)")
    return rows


ADAPTER_SNIPPET = '''\
# with bsr_lite installed; `python -m bsr_lite.merge` writes a folder for plain transformers
from bsr_lite.eval_rm import score_answers
from bsr_lite.models import load_reward_model

model = load_reward_model("path/to/this/folder")
print(score_answers(model, "What is 2 + 2?", ["4.", "5."]).tolist())'''.splitlines()

PLAIN_SNIPPET = '''\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = "path/to/this/folder"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
rewards = []
for answer in ("4.", "5."):  # one at a time, so nothing is padded
    chat = [{"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": answer.strip()}]  # as in training
    text = tokenizer.apply_chat_template(chat, tokenize=False)  # ends in the end-of-turn token
    inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    with torch.no_grad():
        rewards.append(model(**inputs).logits[0, 0].item())  # raw: no sigmoid
print(rewards)'''.splitlines()


META = "reward_model.json"


def template_hash(tokenizer) -> str:
    """Short checksum of the chat template: rewards mean little under another one."""
    template = finished_template(tokenizer.chat_template) or ""  # the same before and after saving
    return hashlib.sha256(template.encode()).hexdigest()[:12]


def check_target(folder: str | Path) -> Path:
    """The absolute path of a folder that a model can be saved to; its parent is made.

    Raises: ModelError for a file, and for a folder that holds anything but a saved model."""
    folder = Path(folder).resolve()
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())
                            and not (folder / META).exists()):
        raise ModelError(f"{folder} holds other files: save into a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder


def save_reward_model(model, folder: str | Path, weights: dict | None = None) -> None:
    """Adapters and head for LoRA, the standard sequence-classification layout otherwise, with a
    model card and a chat template that ends where the reward is read (`card.finished_template`).
    weights: the gathered state dict of a model that holds a shard of it only.

    Replaces an earlier model in `folder`.  Raises: ModelError when it holds anything else.
    """
    folder = check_target(folder)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    temporary.chmod(0o755)
    options: dict = {"save_embedding_layers": False} if model.meta["lora_rank"] else {}
    if weights is not None:
        options["state_dict"] = weights
    tokenizer = copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = finished_template(tokenizer.chat_template)
    meta = model.meta | {"new_head": False, "template_hash": template_hash(model.tokenizer)}
    try:
        with quiet_loading():
            model.hf.save_pretrained(temporary, **options)
            tokenizer.save_pretrained(temporary)
        (temporary / META).write_text(json.dumps(meta, indent=2) + "\n")
        (temporary / "README.md").write_text(model_card(meta), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # else an earlier model's files would be loaded
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def weights_fingerprint(folder: str | Path) -> str:
    """Checksum of a saved model's weights, to tell whether it is what an earlier run saw."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def read_meta(folder: Path) -> dict:
    try:
        return json.loads((folder / META).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder / META} cannot be read ({error}): save the model again, or "
                         "name a folder written by save_reward_model") from error


def saved_meta(name: str, **asked) -> dict | None:
    """The metadata of a folder written by `save_reward_model`, None for any other name.

    Raises: ModelError when something else is asked of it than it was saved with."""
    if not (Path(name) / META).exists():
        return None
    meta = read_meta(Path(name))
    other = [k for k, value in asked.items() if value and value != meta.get(k)]
    if other:
        was = ", ".join(f"{k} {meta.get(k)}" for k in other)
        raise ModelError(f"{name} is a saved model, with {was}: it is loaded as it was saved; "
                         f"leave out {', '.join(other)}")
    return meta


def check_template(folder: str | Path, tokenizer, meta: dict) -> None:
    """Raises: ModelError when adapters were trained with another chat template."""
    if template_hash(tokenizer) != meta["template_hash"]:
        raise ModelError(f"{folder} was trained with another chat template than {meta['base']} "
                         "has now; load the base it was trained on")
