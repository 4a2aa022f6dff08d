"""Situations from public trackers, and what becomes of each now: `used` as its author means it,
`refused` in one line that says how to go on, `counted` and printed, or ended in `one line`.

    python tests/test_situations.py        # the table of all of them
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import assert_close_in_norm, tokenize

from bsr_lite.config import RewardModelConfig, parse
from bsr_lite.data import Group, Pair, read_groups, read_pairs, to_trl, trl_pair
from bsr_lite.errors import ConfigError, DataError, ModelError
from bsr_lite.eval_rm import evaluate, score_answers
from bsr_lite.losses import preference_loss
from bsr_lite.models import load_reward_model
from bsr_lite.pretrained import check_architecture
from bsr_lite.saving import save_reward_model
from bsr_lite.scenarios import load_scenarios
from bsr_lite.scorers import read_prompts
from bsr_lite.step import backward
from bsr_lite.studies.leaderboards import read_board
from bsr_lite.tokenization import pair_tokens
from bsr_lite.train_rm import train

HERE = Path(__file__).parent
VERDICTS = ("used", "refused", "counted", "one line")


@dataclass
class Situation:
    what: str
    where: str
    verdict: str
    check: Callable | str  # or file::test that shows it


SITUATIONS: list[Situation] = []


def situation(what: str, where: str, verdict: str):
    def add(check):
        SITUATIONS.append(Situation(what, where, verdict, check))
        return check
    return add


def shown(what: str, where: str, verdict: str, test: str) -> None:
    """A situation that another file's test shows."""
    SITUATIONS.append(Situation(what, where, verdict, test))


@dataclass
class World:
    """What checks need: a folder, a tiny model, the embedded tokenizer, what was printed."""

    folder: Path
    model: str
    tokenizer: object
    capsys: object

    def file(self, rows: list, name: str = "rows.jsonl") -> str:
        (self.folder / name).write_text("".join(
            (row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(self.folder / name)

    def printed(self) -> str:
        return self.capsys.readouterr().out

    def config(self, source: str, **changes):
        data = {"source": source, "format": "trl", "max_length": 128, **changes.pop("data", {})}
        return parse({"model": {"name": self.model, "dtype": "float32"} | changes.pop("model", {}),
                      "data": data, "output_dir": str(self.folder / "run"), "batch_size": 4,
                      "token_budget": 512} | changes, RewardModelConfig, "test")


@pytest.fixture
def world(tmp_path, tiny_path, tokenizer, capsys):
    return World(tmp_path, tiny_path, tokenizer, capsys)


def said(text: str, role: str = "assistant") -> dict:
    return {"role": role, "content": text}


Q = [said("What is 2+2?", "user")]
ROW = {"prompt": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5, maybe."}
PAIR = Pair(Q, "It is 4.", "It is 5, maybe.")


def refuses(match: str, error=DataError):
    return pytest.raises(error, match=match)


# ---- what a pair means ---------------------------------------------------------------------------

@situation("`rejected` carries another prompt or history than `prompt` and `chosen`",
           "DPO reference code #86", "refused")
def another_prompt(w):
    other = [said("And 3+3?", "user"), said("6")]
    row = {"prompt": Q, "chosen": [*Q, said("4")], "rejected": other}
    with refuses("row 2: rejected carries another conversation"):
        read_pairs(w.file([ROW, row]))
    assert trl_pair(row | {"rejected": [*Q, said("5")]}) == Pair(Q, "4", "5")


DIALOG = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: What is {}+2?\n\nAssistant: It is "
HH = [{"chosen": DIALOG.format(i) + "4.", "rejected": DIALOG.format(i) + "5, maybe."}
      for i in range(12)]


@situation("HH-RLHF's dialogs as one text", "trl #1858", "used")
def hh_rlhf(w):
    pairs = read_pairs(w.file(HH))
    assert pairs[2] == Pair([said("Hi", "user"), said("Hello!"), *Q], "It is 4.", "It is 5, maybe.")
    given = {"prompt": "\n\nHuman: What is 2+2?\n\nAssistant:", "chosen": " It is 4.",
             "rejected": " It is 5, maybe."}
    pair = trl_pair(given)
    assert (pair.prompt, pair.chosen.strip()) == (Q, "It is 4.")
    train(w.config(w.file(HH), epochs=1))
    assert "12 rows" not in w.printed()


@situation("HH-RLHF rows with an empty answer, or whose dialogs differ early", "trl #1858",
           "counted")
def hh_holes(w):
    other = {"chosen": HH[0]["chosen"], "rejected": HH[1]["rejected"]}
    empty = {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: b"}
    assert len(read_pairs(w.file([*HH, other, empty]))) == 12
    out = w.printed()
    assert "1 of 14 rows: dropped: two dialogs that differ before their last answers" in out
    assert "1 of 14 rows: dropped: an empty turn" in out


shown("answers that think aloud, under templates that treat thoughts apart (Qwen3, R1)",
      "trl #6361", "used", "test_tokenizers.py::test_thinking_is_where_the_template_puts_it")
shown("tokenizers that prepend a space (Llama 2, Mistral): rewards are the model card's",
      "transformers #26273", "used",
      "test_tokenizers.py::test_the_cards_snippet_and_evaluate_agree")
shown("one token for bos, unk, pad and eos: plain transformers would read one token early",
      "RLHF-Reward-Modeling #49, OpenRLHF #300", "refused",
      "test_tokenizers.py::test_one_token_for_everything_cannot_pad")
shown("a policy whose template has no end-of-turn token", "reward-bench #90, LlamaFactory #5599",
      "refused", "test_tokenizers.py::test_an_answer_without_an_end_cannot_be_sampled")
shown("rollouts of several turns in `reward_function`; content that is None", "ms-swift #7835",
      "used", "test_interop.py::test_a_rollout_of_several_turns_is_scored_where_it_ends")


@situation("column `margin`", "trl #5539", "used")
def margin(w):
    pairs = read_pairs(w.file([ROW | {"margin": 1.5}, ROW | {"chosen": "4"}]))
    assert [p.margin for p in pairs] == [1.5, None]
    rows, _ = pair_tokens(pairs, w.tokenizer, 128)
    assert [row.target_margin for row in rows] == [1.5, 0.0]
    r = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0])
    expected = -torch.nn.functional.logsigmoid(torch.tensor([2 - 1 - 1.5, 0.0])).mean()
    loss = preference_loss("bt", *r, torch.tensor([1.5, 0.0]))
    assert loss.item() == pytest.approx(expected.item())
    bsr = preference_loss("bsr", *r, torch.tensor([1.5, 0.0]), bsr_lambda=0.1)
    assert (bsr - loss).item() == pytest.approx(0.1 * 2 * 1.25**2)  # of the rewards themselves


@situation("column `margin` with a loss that has no place for it", "trl #5539", "refused")
def margin_without_place(w):
    source = w.file([{**row, "margin": 1.0} for row in HH])
    with refuses("loss hinge takes no margins of pairs, and 11 demand one", ConfigError):
        train(w.config(source, loss="hinge", target_margin=1.0))


@situation("column `system`", "axolotl #2397", "used")
def system(w):
    (pair,) = read_pairs(w.file([ROW | {"system": "Answer in French."}]))
    assert pair.prompt == [said("Answer in French.", "system"), *Q]
    assert trl_pair(ROW | {"system": ""}) == trl_pair(ROW | {"system": None}) == PAIR
    with refuses("column 'system' and the system message of prompt differ"):
        read_pairs(w.file([ROW | {"prompt": [said("Be brief.", "system"), *Q], "system": "x"}]))


@situation("column `tools`, where the template renders tools", "trl #6259", "used")
def tools(w):
    tool = {"type": "function", "function": {"name": "add", "parameters": {}}}
    for given in ([tool], json.dumps([tool])):
        (pair,) = read_pairs(w.file([ROW | {"tools": given}]))
        assert pair.prompt == [{"role": "tools", "content": json.dumps([tool])}, *Q]
        assert to_trl([pair])[0]["tools"] == json.dumps([tool])
        assert trl_pair(to_trl([pair])[0]) == pair
    with refuses("it leaves out the tools: take a model that is told of them"):
        pair_tokens([pair], w.tokenizer, 128)
    with refuses("row 1: column 'tools' must be a list of JSON schemas"):
        read_pairs(w.file([ROW | {"tools": "add(a, b)"}]))


@situation("columns `images`, `videos`, `audio`, `documents`, `history`", "LlamaFactory #7673",
           "refused")
def images(w):
    for name in ("images", "videos", "audio", "documents", "history"):
        with refuses(f"row 1: '{name}' is part of the conversation and not supported"):
            read_pairs(w.file([ROW | {name: ["x"]}]))
        assert trl_pair(ROW | {name: []}) == PAIR
    message = Q[0] | {"images": ["a.png"]}
    with refuses("row 1: 'images' is part of the conversation"):
        read_pairs(w.file([ROW | {"prompt": [message]}]))
    with refuses("'images' is part of the conversation"):
        read_groups(w.file([{"prompt": "q", "responses": ["a", "b"], "gold": [1, 0],
                             "models": ["m", "n"], "images": ["x.png"]}]))


@situation("`score_chosen` equal to or below `score_rejected`", "distilabel #264", "counted")
def scores(w):
    rows = [ROW | {"chosen": f"a{i}", "score_chosen": s, "score_rejected": 3.0}
            for i, s in enumerate((5, 3, 1, 1))]
    assert len(read_pairs(w.file(rows))) == 4
    out = w.printed()
    assert "1 of 4 rows: score_chosen is equal to score_rejected; they are kept" in out
    assert "2 of 4 rows: score_chosen is below score_rejected; they are kept as labelled" in out


@situation("`reasoning_content` in an answer", "trl #6363", "refused")
def reasoning(w):
    row = {"prompt": Q, "chosen": [said("4") | {"reasoning_content": "two and two"}],
           "rejected": [said("4")]}
    with refuses(r"row 1: chosen\[0\] holds its reasoning apart.*\(reasoning_content\): write it"):
        read_pairs(w.file([row]))


@situation("a column of any other name", "trl #5539", "counted")
def other_columns(w):
    read_pairs(w.file([ROW | {"id": 7, "source": "x"}]))
    out = w.printed()
    assert "1 of 1 rows: not used: 'id'" in out and "1 of 1 rows: not used: 'source'" in out


@situation("the prompt in a column `question` or `instruction`", "trl #1858", "refused")
def overlooked_prompt(w):
    row = {"question": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5."}
    with refuses("row 1: no column 'prompt', but 'question': rename it to prompt"):
        read_pairs(w.file([row]))


@situation("UltraFeedback binarized: prompt, whole conversations and `messages` in one row",
           "trl #1858", "used")
def binarized(w):
    system = [said("Be brief.", "system")]
    row = {"prompt": Q[0]["content"], "chosen": [*Q, said("4")], "rejected": [*Q, said("5")],
           "messages": [*Q, said("4")], "score_chosen": 8.0, "score_rejected": 7.0}
    assert trl_pair(row) == Pair(Q, "4", "5")
    longer = {name: [*system, *row[name]] for name in ("chosen", "rejected")}
    assert trl_pair(row | longer) == Pair(system + Q, "4", "5")


@situation("rows that repeat an earlier one", "no tracker", "counted")
def repeats(w):
    assert len(read_pairs(w.file([ROW, ROW | {"chosen": "4"}, ROW]))) == 3
    assert "1 of 3 pairs are there before: they count twice" in w.printed()


@situation("`dev_share: 0`", "OpenRLHF #1089", "used")
def no_dev(w):
    found = load_scenarios(w.config(w.file(HH), data={"dev_share": 0}))
    assert (len(found.train), found.dev_prompt_disjoint) == (12, [])
    train(w.config(w.file(HH), data={"dev_share": 0}))
    assert "0 pairs of 0 prompts are held out as dev, 12 are left" in w.printed()


@situation("one prompt has most of the pairs", "OpenRLHF #1089", "counted")
def one_prompt_dominates(w):
    rows = [ROW | {"rejected": f"{i}"} for i in range(90)]
    rows += [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(10)]
    for seed in range(5):
        found = load_scenarios(w.config(w.file(rows), data={"dev_share": 0.05, "seed": seed}))
        assert len(found.dev_prompt_disjoint) == 5 and len(found.train) == 95
    assert "5 pairs of 5 prompts are held out as dev, 95 are left" in w.printed()
    with refuses("90 pairs have too few prompts to hold out 0.05 of them as dev: raise"):
        load_scenarios(w.config(w.file(rows[:90])))


@situation("a chat longer than the model's positions", "lm-evaluation-harness #2657", "counted")
def beyond_positions(w):
    model = load_reward_model(w.model, dtype="float32")
    assert model.longest == 512
    groups = [Group(Q, ["a", "b"], [1.0, 0.0], ["m", "n"]),
              Group(Q, ["a " * 600, "b"], [1.0, 0.0], ["m", "n"])]
    assert evaluate(model, groups)["dropped"] == 1
    with refuses("a chat of .* tokens: .* computes at most 512; shorten"):
        score_answers(model, "q", ["a " * 600])
    with refuses("data.max_length 1024 is over the 512 tokens that .* computes", ConfigError):
        train(w.config(w.file(HH), data={"max_length": 1024}, token_budget=4096))


# ---- files ---------------------------------------------------------------------------------------

@situation("ShareGPT: `conversations` of from and value", "handled as refused before", "used")
def sharegpt(w):
    turn = {"conversations": [{"from": "system", "value": "Be brief."},
                              {"from": "human", "value": "What is 2+2?"}],
            "chosen": {"from": "gpt", "value": "It is 4."},
            "rejected": {"from": "gpt", "value": "It is 5, maybe."}}
    (pair,) = read_pairs(w.file([turn]))
    assert pair == Pair([said("Be brief.", "system"), *Q], PAIR.chosen, PAIR.rejected)
    whole = {name: [*turn["conversations"], turn[name]] for name in ("chosen", "rejected")}
    assert trl_pair(whole) == pair
    rows = [{**turn, "chosen": {"from": "gpt", "value": f"It is {i}."}} for i in range(12)]
    rows = [{**row, "conversations": [{"from": "human", "value": f"Number {i}?"}]}
            for i, row in enumerate(rows)]
    train(w.config(w.file(rows)))
    with refuses(r"row 1: rejected\[0\] calls a tool"):
        read_pairs(w.file([turn | {"rejected": {"from": "function_call", "value": "f()"}}]))


@situation("a `messages` column beside the answers", "axolotl #2397", "used")
def messages(w):
    assert trl_pair({"messages": Q, "chosen": [said("It is 4.")],
                     "rejected": [said("It is 5, maybe.")]}) == PAIR
    with refuses("messages ends in an assistant message"):
        read_pairs(w.file([{"messages": [*Q, said("4")], "chosen": "a", "rejected": "b"}]))


@situation("`messages` or `conversations` beside whole conversations that are others",
           "DPO reference code #86", "refused")
def another_history(w):
    history = [said("My name is Bo", "user"), said("Hi Bo")]
    row = {"messages": history, "chosen": [*Q, said("4")], "rejected": [*Q, said("5")]}
    with refuses("row 1: column 'messages' holds another conversation than chosen and rejected"):
        read_pairs(w.file([row]))
    assert trl_pair(row | {"messages": [*Q, said("5")]}) == Pair(Q, "4", "5")


@situation("an empty prompt beside answers that begin alike", "trl #1858", "refused")
def empty_prompt(w):
    (w.folder / "a.csv").write_text("prompt,chosen,rejected\n,The answer is 4,The answer is 5\n")
    with refuses("row 1: column 'prompt' is empty: fill it"):
        read_pairs(str(w.folder / "a.csv"))


@situation("dialogs nearly as HH-RLHF writes them", "trl #1858", "refused")
def nearly_hh(w):
    windows = {name: text.replace("\n", "\r\n") for name, text in HH[2].items()}
    assert trl_pair(windows) == trl_pair(HH[2])
    for text in ("Human: Q\nAssistant: ", "System: S\n\nHuman: Q\n\nAssistant: "):
        with refuses("a dialog nearly as HH-RLHF writes it"):
            read_pairs(w.file([{"chosen": text + "A", "rejected": text + "B"}]))
    with refuses("a dialog nearly as HH-RLHF writes it"):
        read_pairs(w.file([ROW | {"prompt": "\n\nHuman: Q"}]))


@situation("roles of other data sets: `Human`, `prompter`, `User`; and words that are none",
           "OpenAssistant's rows", "used")
def roles(w):
    for role in ("Human", "prompter", "User"):
        assert trl_pair(ROW | {"prompt": [Q[0] | {"role": role}]}) == PAIR
    with refuses("must be of one of the roles system, .* not of 'critic'"):
        read_pairs(w.file([ROW | {"prompt": [Q[0] | {"role": "critic"}]}]))


@situation("pairs with and without margin or tools on their way to TRL", "trl #5539", "used")
def to_trl_and_back(w):
    from datasets import Dataset
    tool = {"role": "tools", "content": '[{"name": "f"}]'}
    pairs = [PAIR, Pair([tool, *Q], "4", "5", margin=1.5)]
    for given in (pairs, pairs[::-1]):
        rows = list(Dataset.from_list(to_trl(given)))
        assert [row["margin"] for row in rows] == [p.margin or 0.0 for p in given]
        assert [trl_pair(row).prompt for row in rows] == [p.prompt for p in given]


@situation("`input` beside `instruction`", "no tracker", "refused")
def alpaca_input(w):
    row = {"instruction": "Summarize.", "input": "A text", "completions": [
        {"model": m, "response": m, "overall_score": i} for i, m in enumerate("ab")]}
    with refuses("row 1: 'input' is part of the conversation"):
        read_groups(w.file([row]), "ultrafeedback")
    assert len(read_groups(w.file([row | {"input": ""}]), "ultrafeedback")) == 1
    with refuses("row 1: 'input' is part of the conversation"):
        read_prompts(w.file([row]))


@situation("a list of messages written as text, as pandas leaves it in a CSV", "axolotl #1430",
           "refused")
def messages_as_text(w):
    row = ROW | {"chosen": str([said("4")]), "rejected": json.dumps([said("5")])}
    for text in (row["chosen"], row["rejected"], "{'role': 'assistant', 'content': 'A'}",
                 '[{"id": 1, "role": "assistant"}]'):
        with refuses("chosen is messages written as text: store them as a list of objects"):
            read_pairs(w.file([row | {"chosen": text}]))
    code = '{"a": {"role": 1}}'
    assert trl_pair(ROW | {"chosen": code}).chosen == code


@situation("a folder of `save_to_disk`, one split or several", "axolotl #1430", "used")
def saved_to_disk(w):
    from datasets import Dataset, DatasetDict
    one, two = Dataset.from_list([ROW, ROW | {"chosen": "4"}]), Dataset.from_list([ROW])
    one.save_to_disk(str(w.folder / "one"))
    DatasetDict({"train": one, "test": two}).save_to_disk(str(w.folder / "both"))
    assert len(read_pairs(str(w.folder / "one"))) == len(read_pairs(str(w.folder / "both"))) == 2
    assert read_pairs(str(w.folder / "both"), split="test") == [PAIR]
    with refuses("both: no folder with a split 'dev' that datasets reads"):
        read_pairs(str(w.folder / "both"), split="dev")
    (w.folder / "one/state.json").write_text("null")
    with refuses(r"one: no folder with a split 'train' .* \(damaged: write or fetch it again\)"):
        read_pairs(str(w.folder / "one"))


@situation("a folder of parquet files, as the hub lays them out", "axolotl #1430", "used")
def parquet_folder(w):
    from datasets import Dataset
    (w.folder / "set/data").mkdir(parents=True)
    for name, chosen in (("train-00000-of-00002", "4"), ("train-00001-of-00002", "four"),
                         ("test-00000-of-00001", "It is 4.")):
        Dataset.from_list([ROW | {"chosen": chosen}]).to_parquet(
            str(w.folder / f"set/data/{name}.parquet"))
    assert [p.chosen for p in read_pairs(str(w.folder / "set"))] == ["4", "four"]
    assert read_pairs(str(w.folder / "set"), split="test") == [PAIR]
    (w.folder / "empty").mkdir()
    with refuses("empty: no folder with a split 'train' that datasets reads"):
        read_pairs(str(w.folder / "empty"))


@situation("CSV, numbers as answers included", "axolotl #1430", "used")
def comma_separated(w):
    text = ('prompt,chosen,rejected,margin\n"What is 2+2?",4,"It is 5, maybe.",1.5\n'
            '"Two\nlines","""quoted""",b,\n')
    (w.folder / "a.csv").write_text(text)
    assert read_pairs(str(w.folder / "a.csv")) == [
        Pair(Q, "4", "It is 5, maybe.", 1.5), Pair([said("Two\nlines", "user")], '"quoted"', "b")]
    (w.folder / "a.tsv").write_text("prompt\tchosen\trejected\nq\ta\tb\n")
    assert read_pairs(str(w.folder / "a.tsv"))[0].chosen == "a"
    for broken, match in (("prompt,chosen,rejected\nq,a,b,c\n", "row 1: more or fewer fields"),
                          ("prompt,chosen,rejected\nq,a\n", "row 1: more or fewer fields"),
                          ('prompt,chosen,rejected\nq,"a,b\n', "row 1: not valid CSV"),
                          ("prompt;chosen;rejected\nq;a;b\n", "row 1: column 'chosen' is missing")):
        (w.folder / "b.csv").write_text(broken)
        with refuses(match):
            read_pairs(str(w.folder / "b.csv"))


@situation("RM-Bench's own files, one a domain", "no tracker", "used")
def rm_bench_files(w):
    files = {"chat_filtered": "alpacaeval", "math_filtered": "math",
             "code_filtered": "bigcode/humanevalpack", "safety-refuse_filtered":
             "refusals-dangerous", "safety-response_filtered": "xstest-should-respond"}
    row = {"id": 1, "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}
    sources = [w.file([row | {"prompt": f"about {name}", "subset": subset}], f"{name}.json")
               for name, subset in files.items()]
    groups = read_board(sources, "rm_bench", "train")
    assert [g.split for g in groups] == ["chat", "math", "code", "safety-refuse",
                                         "safety-response"]
    with refuses("unknown RM-Bench domain 'other'"):
        read_board([w.file([row | {"prompt": "q", "subset": "other"}], "x.json")], "rm_bench", "")


shown("UltraFeedback rows without completions or with a null score", "no tracker", "counted",
      "test_data.py::test_ultrafeedback_rows_with_a_hole_are_dropped_and_counted")
shown("RewardBench 2", "no tracker", "used",
      "test_leaderboards.py::test_reward_bench_2_by_hand")


# ---- models --------------------------------------------------------------------------------------

shown("a tokenizer with added tokens, the embedding not resized", "RRHF #56", "refused",
      "test_tokenizers.py::test_tokens_without_an_embedding_are_refused_with_both_sizes")


@situation("a folder of adapters as base or as reward model", "LlamaFactory #3870", "refused")
def adapters_as_base(w):
    (w.folder / "adapters").mkdir()
    (w.folder / "adapters/adapter_config.json").write_text("{}")
    with refuses("holds adapters, no whole model: merge them first", ModelError):
        load_reward_model(str(w.folder / "adapters"))
    save_reward_model(load_reward_model(w.model, lora_rank=2), w.folder / "rm")
    with refuses("is a saved model, with .*lora_rank", ModelError):
        load_reward_model(str(w.folder / "rm"), lora_rank=4)


@situation("models that do not hand the row on to their attention (StableLM, Nemotron)",
           "LlamaFactory #3870", "refused")
def deaf_attention(w):
    from transformers import (
        NemotronConfig,
        NemotronForCausalLM,
        StableLmConfig,
        StableLmForCausalLM,
    )
    sizes = {"vocab_size": len(w.tokenizer), "hidden_size": 16, "intermediate_size": 16,
             "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    for kind, cls in ((StableLmConfig, StableLmForCausalLM), (NemotronConfig, NemotronForCausalLM)):
        path = w.folder / kind.__name__
        cls(kind(**sizes, head_dim=8)).save_pretrained(path)
        w.tokenizer.save_pretrained(path)
        with refuses("packed rows cannot compute .*set model.layout: padded", ModelError):
            load_reward_model(str(path), dtype="float32")
        model = load_reward_model(str(path), dtype="float32", layout="padded")
        assert score_answers(model, "q", ["a", "b c"]).isfinite().all()


@situation("attention to what comes later", "no tracker", "refused")
def bidirectional(w):
    model = load_reward_model(w.model, dtype="float32")
    check_architecture(model.classifier, model.meta)
    model.backbone.layers[1].self_attn.is_causal = False
    with refuses("attends to what comes later.*model.layout: padded", ModelError):
        check_architecture(model.classifier, model.meta)
    check_architecture(model.classifier, model.meta | {"layout": "padded"})


@situation("an attention window shorter than `max_length`", "no tracker", "refused")
def window(w):
    from transformers import MistralConfig, MistralForCausalLM
    config = MistralConfig(vocab_size=len(w.tokenizer), hidden_size=16, intermediate_size=16,
                           num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
                           sliding_window=64)
    MistralForCausalLM(config).save_pretrained(w.folder / "mistral")
    w.tokenizer.save_pretrained(w.folder / "mistral")
    name = {"name": str(w.folder / "mistral")}
    with refuses("data.max_length 128 is over the 64 tokens", ConfigError):
        train(w.config(w.file(HH), model=name))
    train(w.config(w.file(HH), model=name | {"layout": "padded"}))


shown("Gemma 2's softcap", "handled before", "refused",
      "test_models.py::test_attention_the_layout_cannot_compute_is_refused_at_once")
shown("decoders without a final norm", "handled before", "refused",
      "test_models.py::test_architectures_without_the_expected_parts_are_refused")
shown("templates that refuse a role or lose a message; no chat template", "handled before",
      "refused", "test_data.py::test_templates_that_lose_a_message_are_an_error")
shown("a tokenizer that adds BOS to a rendered chat", "handled before", "used",
      "test_data.py::test_exactly_one_bos_where_the_tokenizer_adds_one_itself")
shown("LoRA: head and adapters through saving and merging", "handled before", "used",
      "test_models.py::test_merged_models_in_a_fresh_process_give_the_same_rewards")
shown("pipelines of a merged model", "handled before", "used",
      "test_interop.py::test_pipeline_of_a_merged_model_gives_raw_rewards_unasked")
shown("a policy and a reward model with different tokenizers", "handled before", "used",
      "test_policy.py::test_another_reward_model_keeps_its_own_weights_and_is_frozen")


# ---- runs ----------------------------------------------------------------------------------------

shown("a run over a finished one", "LibreYOLO #833", "counted",
      "test_runs.py::test_a_fresh_run_clears_what_a_run_wrote_and_nothing_else")
shown("two runs on one output_dir", "torchtune #481", "refused",
      "test_runs.py::test_a_second_run_is_refused_until_the_first_has_ended_or_was_killed")
shown("a full disk in mid-run", "SimpleTuner #2353", "one line",
      "test_runs.py::test_a_disk_that_fills_up_in_mid_run_and_then_has_room")
shown("output_dir is a file or read-only", "trl #3872", "refused",
      "test_runs.py::test_an_output_dir_that_cannot_be_is_one_line_before_loading")
shown("the same of `merge`, `evaluate --output` and the AlpacaEval script", "trl #3872", "refused",
      "test_runs.py::test_commands_try_their_output_before_they_work")
shown("--resume with another token_budget, or from a moved folder", "transformers #43708", "used",
      "test_runs.py::test_a_run_goes_on_moved_and_computed_otherwise")
shown("--resume with what changes results", "transformers #43708", "refused",
      "test_runs.py::test_what_can_change_results_is_refused_by_name")
shown("Ctrl-C", "no tracker", "one line",
      "test_runs.py::test_ctrl_c_is_one_line_and_the_run_goes_on")


# ---- texts ---------------------------------------------------------------------------------------

@situation("conversations that do not end in the assistant", "handled before", "refused")
def ends_in_user(w):
    with refuses("row 1: chosen must end in one assistant message"):
        read_pairs(w.file([{"prompt": Q, "chosen": Q, "rejected": [said("5")]}]))


@situation("image parts in a message's content", "handled before", "refused")
def content_lists(w):
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    with refuses(r"prompt\[0\].content must be non-empty text, got list"):
        read_pairs(w.file([ROW | {"prompt": [{"role": "user", "content": content}]}]))


@situation("CRLF, BOM, U+2028, NUL, emoji, combining letters, 5 MB in one row", "handled before",
           "used")
def odd_texts(w):
    texts = ["a\r\nb", "a\u2028b", "a\x00b", "🙂👩‍👩‍👧", "e\u0301 \u202e", "x" * 5_000_000]
    rows = [ROW | {"chosen": t} for t in texts]
    (w.folder / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(
        json.dumps(row, ensure_ascii=False) for row in rows).encode())
    assert [p.chosen for p in read_pairs(str(w.folder / "bom.jsonl"))] == texts
    for text in texts[:-1]:
        prompt, ids = tokenize(w.tokenizer, Q, text)
        assert w.tokenizer.decode(ids, skip_special_tokens=True) == text
        assert prompt == tokenize(w.tokenizer, Q, "x")[0]


# ---- the table -----------------------------------------------------------------------------------

def named(check) -> str:
    return check if isinstance(check, str) else check.__name__


@pytest.mark.parametrize("s", SITUATIONS, ids=lambda s: named(s.check))
def test_situation(s, request):
    assert s.verdict in VERDICTS and s.what and s.where
    if isinstance(s.check, str):
        file, test = s.check.split("::")
        assert re.search(rf"^def {test}\(", (HERE / file).read_text(), re.M), "no such test"
    else:
        s.check(request.getfixturevalue("world"))


def test_margins_change_nothing_but_their_loss_however_a_batch_is_cut(tiny_path, pairs):
    from bsr_lite.batching import pack
    model = load_reward_model(tiny_path, dtype="float32")
    rows, _ = pair_tokens(pairs[:6], model.tokenizer, 128)
    config = parse({"model": {"name": "m"}, "data": {"source": "s"}, "output_dir": "o"},
                   RewardModelConfig, "test")
    margins, found = torch.arange(6.0), []
    for runs in ([range(6)], [[5, 0], [3, 1, 4], [2]]):
        model.zero_grad()
        parts = [(list(run), pack([rows[i] for i in run])) for run in runs]
        rewards, loss = backward(model, parts, config, margins=margins)
        expected = preference_loss("bt", *rewards.unbind(1), margins)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        found.append(model.classifier.score.weight.grad.clone())
    assert_close_in_norm(*found)


if __name__ == "__main__":
    print("| situation | where it was met | now |\n|---|---|---|")
    for s in SITUATIONS:
        print(f"| {s.what} | {s.where} | {s.verdict} |")
