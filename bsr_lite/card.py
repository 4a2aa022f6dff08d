"""The model card that is written beside every saved reward model."""


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
