"""Every check of the doctor says ok where all is well, and something else where it is not."""

import dataclasses
import json
from contextlib import contextmanager

import pytest
import torch
from test_policy import stir
from test_tokenizers import FAMILIES, build, save_base

from bsr_lite import generate
from bsr_lite.course import checks_clinic, doctor
from bsr_lite.data import Pair
from bsr_lite.errors import DataError, ModelError
from bsr_lite.eval_rm import evaluate
from bsr_lite.models import load_reward_model
from bsr_lite.policy import load_policy
from bsr_lite.saving import save_reward_model
from bsr_lite.scenarios import pairs_as_groups
from bsr_lite.tokenization import answer_rows


def with_head(model, seed=9):
    """As if it had been trained: a head that is none of the draws."""
    with torch.no_grad():
        weight = model.head_weight
        weight.copy_(torch.randn(len(weight), generator=torch.Generator().manual_seed(seed)))
        weight /= weight.norm()
    model.meta["new_head"] = False
    return model.eval()


@pytest.fixture(scope="module")
def pairs(pairs):
    """Those of conftest, of which three hold the same answer twice, made to differ."""
    return [dataclasses.replace(p, rejected=f"No: {p.rejected}") for p in pairs]


@pytest.fixture
def model(tiny_path):
    return with_head(load_reward_model(tiny_path, dtype="float32"))


def rows_of(tokenizer, pairs):
    return list(answer_rows(tokenizer, [(p.prompt, (p.chosen, p.rejected)) for p in pairs]))


def verdict(check, *arguments) -> str:
    with torch.no_grad():
        return check(*arguments)[0]


# ---- head ----------------------------------------------------------------------------------------

def test_a_trained_head_is_ok(model):
    assert verdict(doctor.head, model) == "ok"


def test_a_head_that_is_missing_zero_or_as_it_was_drawn_is_broken(tiny_path, model):
    found, text = doctor.head(load_reward_model(tiny_path, seed=77))
    assert found == "broken" and "missing in the folder" in text
    with torch.no_grad():
        for seed in range(5):
            draw = load_reward_model(tiny_path, seed=seed).head_weight
            for lost in (draw, draw.bfloat16(), torch.zeros_like(draw)):
                model.head_weight.copy_(lost)
                assert not model.meta["new_head"] and verdict(doctor.head, model) == "broken"
            model.head_weight.copy_(draw + 0.01 * torch.randn_like(draw))  # trained a little
            assert verdict(doctor.head, model) == "ok"


def test_a_head_of_an_odd_length_is_worth_a_look(model):
    with torch.no_grad():
        model.head_weight.mul_(100)
    assert verdict(doctor.head, model) == "look"


# ---- template ------------------------------------------------------------------------------------

@pytest.mark.parametrize(("template", "expected"), [
    (None, "ok"),
    ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "broken"),
    ("{% for m in messages %}<|im_start|>{{ m.content[:8] }}<|im_end|>{% endfor %}", "broken")],
    ids=["as it is", "no end of turn", "cuts answers"])
def test_template(tiny_path, pairs, template, expected):
    tokenizer = load_reward_model(tiny_path, depth=1).tokenizer
    tokenizer.chat_template = template or tokenizer.chat_template
    assert verdict(doctor.template, tokenizer, pairs, rows_of(tokenizer, pairs)) == expected


def test_a_tokenizer_that_doubles_bos_is_worth_a_look(pairs):
    for family, expected in (("llama-3", "look"), ("qwen", "ok")):
        tokenizer = build(*FAMILIES[family])
        assert verdict(doctor.template, tokenizer, pairs, rows_of(tokenizer, pairs)) == expected


@pytest.mark.parametrize(("number", "of_template", "of_batches"), [
    (1, "ok", "ok"), (2, "ok", "ok"), (3, "ok", "broken"), (4, "broken", "ok")])
def test_patients_have_the_one_fault_that_the_exercise_expects(
        model, pairs, number, of_template, of_batches):
    patient = checks_clinic.patient(number, model)
    rows = rows_of(patient.tokenizer, pairs)
    assert verdict(doctor.template, patient.tokenizer, pairs, rows) == of_template
    assert verdict(doctor.batches, patient, rows[:4]) == of_batches
    assert verdict(doctor.head, patient) == "ok"  # of patient 2, too: what is saved looks trained
    assert torch.equal(patient.head_weight, model.head_weight) == (number != 2)
    assert model.classifier.score.bias is None  # the healthy one stays as it is


# ---- data ----------------------------------------------------------------------------------------

def test_pairs_that_differ_are_ok_and_those_that_do_not_are_counted(tokenizer, pairs):
    def found(changed, most=512):
        return doctor.data(changed, rows_of(tokenizer, changed), most)

    assert found(pairs) == ("ok", "0 of 24 equal, 0 if cut at 512, 0 repeat a prompt")
    same = dataclasses.replace(pairs[0], rejected=f" {pairs[0].chosen}\n")
    assert found([same, *pairs[1:]]) == (
        "look", "1 of 24 equal, 1 if cut at 512, 0 repeat a prompt")
    assert found([same] * 3 + pairs[3:])[0] == "broken"
    assert found(pairs, 12) == ("broken", "0 of 24 equal, 24 if cut at 12, 0 repeat a prompt")
    again = [*pairs, dataclasses.replace(pairs[0], chosen="Another answer.")]
    assert found(again) == ("look", "0 of 25 equal, 0 if cut at 512, 1 repeat a prompt")


# ---- batches -------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [{}, {"lora_rank": 4}, {"layout": "padded"},
                                     {"dtype": "bfloat16"}], ids=str)
def test_rewards_that_hang_on_what_is_beside_them_are_broken(tiny_path, pairs, options):
    model = with_head(load_reward_model(tiny_path, **{"dtype": "float32"} | options))
    rows = rows_of(model.tokenizer, pairs)[:4]
    before = doctor.batches(model, rows)
    assert before[0] == "ok"
    model.classifier.config.pad_token_id = 7  # another one than the tokenizer's
    found, text = doctor.batches(model, rows)
    on_the_left = before[1].partition("padded left")[2]  # no padding stands behind an end there
    assert found == "broken" and text.endswith(on_the_left)
    model.classifier.config.pad_token_id = model.tokenizer.pad_token_id
    assert doctor.batches(model, rows) == before  # it leaves the model as it was


def test_padding_by_the_end_of_turn_is_broken(model, pairs):
    model.tokenizer.pad_token = model.tokenizer.eos_token
    model.classifier.config.pad_token_id = model.tokenizer.pad_token_id
    assert verdict(doctor.batches, model, rows_of(model.tokenizer, pairs)[:4]) == "broken"


# ---- level and accuracy --------------------------------------------------------------------------

@pytest.mark.parametrize(("shift", "scale", "expected"), [
    (0, 1, "ok"), (0, 100, "ok"), (300, 1, "look"), (-9, 1, "look"), (0.3, 0.01, "look")])
def test_a_level_is_never_broken(shift, scale, expected):
    rewards = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    assert verdict(doctor.level, {"rewards": (shift + scale * rewards).tolist()}) == expected


def test_a_level_beyond_the_spread_is_seen_whatever_the_signs():
    rewards = [[50.0 + i % 2, 51.0 - i % 2] for i in range(20)] + [[-0.5, 0.5]]
    assert verdict(doctor.level, {"rewards": rewards}) == "look"


@pytest.mark.parametrize(("low", "high", "length", "expected"), [
    (0.7, 0.9, 0.4, "ok"), (0.55, 0.7, 0.5, "ok"), (0.45, 0.6, 0.5, "look"),
    (0.7, 0.9, 0.75, "look"), (0.7, 0.9, 0.25, "look"), (0.1, 0.3, 0.5, "broken")])
def test_accuracy(low, high, length, expected):
    scores = {"score": (low + high) / 2, "low": low, "high": high, "groups": 64,
              "length_score": length}
    assert verdict(doctor.accuracy, scores) == expected


def test_labels_that_are_turned_are_broken(model, pairs):
    """Pairs labelled by the model itself, and the same ones turned."""
    rewards = torch.tensor(evaluate(model, pairs_as_groups(pairs))["rewards"])
    by_itself = [p if w > l else Pair(p.prompt, p.rejected, p.chosen)
                 for p, (w, l) in zip(pairs, rewards.tolist(), strict=True)]
    turned = [Pair(p.prompt, p.rejected, p.chosen) for p in by_itself]
    assert [verdict(doctor.accuracy, evaluate(model, pairs_as_groups(p)))
            for p in (by_itself, turned)] == ["ok", "broken"]


# ---- kl ------------------------------------------------------------------------------------------

@pytest.fixture
def policy(tiny_path):
    policy = load_policy(tiny_path, lora_rank=4, dtype="float32")
    stir(policy)
    return policy


def test_kl_of_own_answers_is_ok_and_of_an_older_policys_broken(policy, pairs, monkeypatch):
    assert verdict(doctor.kl, policy, pairs) == "ok"

    def stale(policy, *arguments, **options):
        with policy.reference():
            return roll_out(policy, *arguments, **options)

    roll_out = generate.roll_out
    monkeypatch.setattr(generate, "roll_out", stale)
    assert verdict(doctor.kl, policy, pairs) == "broken"


def test_an_untrained_adapter_has_a_kl_of_zero(tiny_path, pairs):
    untrained = load_policy(tiny_path, lora_rank=4, dtype="float32")
    assert verdict(doctor.kl, untrained, pairs) == "ok"


@pytest.mark.parametrize(("shift", "expected"), [(0.5, "ok"), (-0.1, "look"), (-2.0, "broken")])
def test_a_kl_within_noise_of_zero_is_worth_a_look(shift, expected, pairs, monkeypatch):
    class Fake:
        k1 = shift + torch.linspace(-1, 1, 32)  # twice its standard error is 0.2

        def logprobs(self, groups):
            return list(self.k1[:, None])

        @contextmanager
        def reference(self):
            self.k1 = torch.zeros(32)
            yield

    monkeypatch.setattr(generate, "roll_out", lambda *arguments, **options: [])
    assert verdict(doctor.kl, Fake(), pairs) == expected


# ---- the command ---------------------------------------------------------------------------------

@pytest.fixture
def source(tmp_path, pairs):
    rows = [{"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(tmp_path / "pairs.jsonl")


def status(*argv) -> int:
    with pytest.raises(SystemExit) as end:
        doctor.main([*argv, "--format", "trl"])
    return int(end.value.code)


def test_a_line_a_check_and_a_status(model, policy, source, tmp_path, capsys):
    save_reward_model(model, tmp_path / "model")
    policy.save(tmp_path / "policy")
    arguments = [str(tmp_path / "model"), source, "--policy", str(tmp_path / "policy")]
    assert status(*arguments) == 0
    out = capsys.readouterr().out.replace("\n    ", " | ")  # advice stands below, indented
    lines = [line for line in out.splitlines() if not line.startswith("[")]
    assert [line.split()[0] for line in lines] == [
        "head", "template", "data", "batches", "level", "accuracy", "kl"]
    assert all((" | Mend: " in line) == (line.split()[1] != "ok") for line in lines)
    assert status(*arguments, "--max-length", "12") == 1
    assert "data      broken  0 of 24 equal, 24 if cut at 12" in capsys.readouterr().out


def test_without_a_head_it_says_so_and_stops(model, tiny_path, source, tmp_path, capsys):
    model.backbone.save_pretrained(tmp_path / "lost")  # the backbone alone
    model.tokenizer.save_pretrained(tmp_path / "lost")
    for path in (tiny_path, str(tmp_path / "lost")):
        assert status(path, source) == 1
        line, mend = [x for x in capsys.readouterr().out.splitlines() if not x.startswith("[")]
        assert line.startswith("head      broken  norm") and mend.startswith("    Mend: train it")


def test_bad_input_gets_the_librarys_one_error(model, tiny_path, source, tmp_path):
    for argv, error, message in [
            ([tiny_path, str(tmp_path / "none.jsonl")], DataError, "no such file"),
            ([str(tmp_path / "none"), source, "--format", "trl"], ModelError, "cannot load"),
            ([tiny_path, source, "--format", "own"], DataError, "format 'own' holds no groups"),
            ([tiny_path, source, "--policy", tiny_path + "/none"], DataError, "row 1: column")]:
        with pytest.raises(error, match=message):
            doctor.main(argv)
    (tmp_path / "empty.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": " "}\n')
    with pytest.raises(DataError, match="row 1: rejected must be non-empty text"):
        doctor.main([tiny_path, str(tmp_path / "empty.jsonl"), "--format", "trl"])


def test_of_a_ranking_set_the_best_and_the_worst_answer_are_taken(tmp_path):
    rows = [{"prompt": f"Question {i}?", "responses": ["b", "a", "c"], "gold": [2.0, 3.0, 1.0],
             "models": ["x", "y", "z"]} for i in range(3)]
    (tmp_path / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = doctor.read(str(tmp_path / "sets.jsonl"), "pocket", count=2)
    assert [(p.chosen, p.rejected) for p in pairs] == [("a", "c")] * 2
    assert pairs[0].prompt != pairs[1].prompt


def test_a_model_of_another_family_is_looked_at_too(tmp_path, pairs, capsys):
    path = save_base(tmp_path / "base", build(*FAMILIES["llama-3"]))
    model = with_head(load_reward_model(path, dtype="float32"))
    assert doctor.examine(model, pairs)
    assert "template  look" in capsys.readouterr().out
