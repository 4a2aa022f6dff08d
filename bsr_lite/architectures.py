"""Sizes of the models that our configs name, for machines out of the hub's reach."""

from pathlib import Path

from .embedded import EMBEDDED, HUB_ID, ModelError


def _llama(hidden, intermediate, layers, heads, kv_heads, vocabulary, positions, tied=True, **more):
    return {"model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
            "max_position_embeddings": positions, "tie_word_embeddings": tied, **more}


ARCHITECTURES = {
    HUB_ID: _llama(576, 1536, 30, 9, 3, 49152, 8192),
    "meta-llama/Llama-3.2-1B-Instruct": _llama(2048, 8192, 16, 32, 8, 128256, 131072, head_dim=64),
    "meta-llama/Llama-3.2-3B-Instruct": _llama(3072, 8192, 28, 24, 8, 128256, 131072, head_dim=128),
    "meta-llama/Llama-3.1-8B-Instruct": _llama(4096, 14336, 32, 32, 8, 128256, 131072, tied=False),
    "Qwen/Qwen2.5-1.5B-Instruct": _llama(1536, 8960, 28, 12, 2, 151936, 32768, model_type="qwen2"),
    "Qwen/Qwen2.5-3B-Instruct": _llama(2048, 11008, 36, 16, 2, 151936, 32768, model_type="qwen2"),
}
ARCHITECTURES[EMBEDDED] = ARCHITECTURES[HUB_ID]


def architecture(name: str):
    """The transformers config of EMBEDDED, a hub id or a local path.

    Raises: ModelError when it is neither in ARCHITECTURES nor can be loaded.
    """
    from transformers import AutoConfig
    if name in ARCHITECTURES and not Path(name).exists():
        values = dict(ARCHITECTURES[name])
        return AutoConfig.for_model(values.pop("model_type"), **values, num_labels=1)
    try:
        return AutoConfig.from_pretrained(name, num_labels=1)
    except Exception as error:
        raise ModelError(f"no sizes known for {name}: without a network name a local path or one "
                         f"of {', '.join(ARCHITECTURES)}") from error
