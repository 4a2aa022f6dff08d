"""What a saved reward model consists of, beside its Hugging Face files: metadata, model card and a
finished chat template."""

import copy
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from .card import finished_template, model_card
from .embedded import ModelError, quiet_loading

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
