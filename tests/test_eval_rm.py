import json

import numpy as np
import pytest
import torch
from conftest import assert_close_in_norm

from bsr_lite.data import Group
from bsr_lite.dispersion import effective_rank, reward_decomposition
from bsr_lite.errors import ConfigError, DataError, ModelError, UserError
from bsr_lite.eval_rm import evaluate, group_tokens, score_answers, score_tokens
from bsr_lite.metrics import kendall_tau_b
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.scenarios import pairs_as_groups
from bsr_lite.studies.evaluate import main
from bsr_lite.studies.leaderboards import evaluate_rm_bench, read_benchmark


@pytest.fixture(scope="module")
def model(tiny_path):
    return load_reward_model(tiny_path, dtype="float32", seed=2)


def single_rewards(model, groups):
    """The reference: every response in a row of its own."""
    out = []
    for g in groups:
        row = []
        for response in g.responses:
            alone = group_tokens(model.tokenizer, g.prompt, [response])
            row.append(score_tokens(model, [alone])[0]["rewards"])
        out.append(torch.cat(row))
    return torch.stack(out)


def test_rewards_are_those_of_single_responses_in_the_given_order(model, groups):
    token_groups = [group_tokens(model.tokenizer, g.prompt, g.responses) for g in groups]
    scored = score_tokens(model, token_groups, token_budget=300)
    together = torch.stack([s["rewards"] for s in scored])
    torch.testing.assert_close(together, single_rewards(model, groups), atol=5e-6, rtol=0)


def test_scores_against_a_direct_computation(model, groups):
    r = single_rewards(model, groups).numpy()
    gold = np.array([g.gold for g in groups])
    result = evaluate(model, groups, token_budget=500, dispersion=True)
    per_prompt = [kendall_tau_b(a, b).item() for a, b in zip(r, gold, strict=True)]
    lengths = [kendall_tau_b([len(x) for x in g.responses], g.gold).item() for g in groups]
    assert result["length_score"] == pytest.approx(np.mean(lengths))
    assert result["rewards"] == pytest.approx(np.array(r), abs=1e-4)
    assert result["per_prompt"] == pytest.approx(per_prompt)
    assert result["score"] == pytest.approx(np.mean(per_prompt))
    assert result["low"] < result["score"] < result["high"]
    assert result["pooled_tau"] == pytest.approx(kendall_tau_b(r.ravel(), gold.ravel()).item())
    assert result["between_prompts"] + result["within_prompts"] == pytest.approx(r.var(), rel=1e-4)
    token_groups = [group_tokens(model.tokenizer, g.prompt, g.responses) for g in groups]
    scored = score_tokens(model, token_groups)
    for place in ("after", "before"):  # the pair is the first two, whatever K is
        hidden = torch.cat([s[f"{place}_norm"][:2] for s in scored])
        assert result[f"effective_rank_{place}"] == pytest.approx(effective_rank(hidden), rel=1e-3)
    assert result["rank_rows"] == 2 * len(groups)
    assert result["norm_after"]["cv"] < result["norm_before"]["cv"]  # what RMSNorm is for


def test_margin_is_gold_better_minus_worse_and_obeys_eq_23(model, groups):
    result = evaluate(model, groups, dispersion=True)
    r = single_rewards(model, groups)
    sign = torch.tensor([1.0 if g.gold[0] > g.gold[1] else -1.0 for g in groups])
    assert result["margin"] == pytest.approx((sign * (r[:, 0] - r[:, 1])).mean().item(), abs=1e-5)
    scored = score_tokens(model, [group_tokens(model.tokenizer, g.prompt, g.responses)
                                  for g in groups])
    difference = torch.stack([s["after_norm"][0] - s["after_norm"][1] for s in scored])
    parts = reward_decomposition(difference, model.head_weight.detach())
    product = parts["head_norm"] * parts["hidden_norm"] * parts["cosine"]
    assert_close_in_norm(product, r[:, 0] - r[:, 1], unit=1)
    assert result["difference_after"]["mean"] == pytest.approx(
        parts["hidden_norm"].mean().item(), rel=1e-4)


def test_sets_of_one_prompt_are_drawn_together(model, pairs):
    """The same pairs ten times over, as where many models answer few prompts, tell no more."""
    once = evaluate(model, pairs_as_groups(pairs))
    often = evaluate(model, pairs_as_groups(pairs) * 10)
    assert often["groups"] == 10 * once["groups"]
    assert [often[k] for k in ("score", "low", "high")] == pytest.approx(
        [once[k] for k in ("score", "low", "high")])


def test_pairs_score_accuracy_with_ties_as_errors(model, pairs):
    groups = pairs_as_groups(pairs)
    same = Group(groups[0].prompt, ["twice the same", "twice the same"], [1.0, 0.0], ["a", "b"])
    result = evaluate(model, [*groups[:5], same])
    ties = sum(g.responses[0] == g.responses[1] for g in groups[:5]) + 1
    assert result["metric"] == "accuracy" and result["per_prompt"][-1] == 0
    assert result["tied"] == ties


def test_gold_order_decides_not_the_position(model, pairs):
    groups = [g for g in pairs_as_groups(pairs) if g.responses[0] != g.responses[1]]
    turned = [Group(g.prompt, g.responses, g.gold[::-1], g.models) for g in groups]
    assert evaluate(model, groups)["score"] + evaluate(model, turned)["score"] == pytest.approx(1)


def test_sets_of_two_without_a_gold_order_are_left_out_and_counted(model, pairs):
    groups = pairs_as_groups(pairs[:4])
    groups[1].gold = [2.0, 2.0]
    result = evaluate(model, groups)
    assert (result["groups"], result["undecided"], len(result["per_prompt"])) == (3, 1, 3)
    with pytest.raises(DataError, match="0 exceed max_length, 1 have equal gold scores"):
        evaluate(model, groups[1:2])


def test_long_sets_are_dropped_and_counted(model, groups):
    long = Group(groups[0].prompt, ["word " * 400] * 8, list(range(8)), ["m"] * 8)
    result = evaluate(model, [*groups, long], max_length=200)
    assert (result["groups"], result["dropped"]) == (len(groups), 1)
    with pytest.raises(DataError, match="none of 1 ranking sets"):
        evaluate(model, [long], max_length=200)
    with pytest.raises(DataError, match="different sizes"):
        evaluate(model, [groups[0], Group(groups[0].prompt, ["a", "b"], [1.0, 0.0], ["x", "y"])])


def test_bf16_batching_noise_stays_small(tiny_path, groups):
    model = load_reward_model(tiny_path, seed=2)
    token_groups = [group_tokens(model.tokenizer, g.prompt, g.responses) for g in groups[:8]]
    together = torch.stack([s["rewards"] for s in score_tokens(model, token_groups)])
    assert (together - single_rewards(model, groups[:8])).abs().max() < 0.1


def test_command_line(tmp_path, model, groups, tiny_path, capsys):
    save_reward_model(model, tmp_path / "model")
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models}
            for g in groups]
    data = tmp_path / "g.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "out.json"
    main(["--model", str(tmp_path / "model"), "--data", str(data), "--output", str(out)])
    result = json.loads(out.read_text())["g.jsonl (K=8)"]
    assert result["score"] == pytest.approx(evaluate(model, groups)["score"], abs=1e-4)
    assert f"{result['score']:.3f}" in capsys.readouterr().out
    with pytest.raises(DataError, match="no row carries the split 'dev'"):
        main(["--model", str(tmp_path / "model"), "--data", str(data), "--split", "dev"])
    with pytest.raises(ModelError, match="has no reward head"):
        main(["--model", tiny_path, "--data", str(data)])


def test_several_models_are_compared_seed_by_seed(tmp_path, tiny_path, groups, capsys):
    """The second method's models are the first one's, with the sign turned: the difference is twice
    the score, to the other side."""
    names = [f"{method}-seed{n}" for method in ("bt", "turned") for n in (0, 1)]
    for name in names:
        model = load_reward_model(tiny_path, seed=int(name[-1]))
        if name.startswith("turned"):
            with torch.no_grad():
                model.head_weight.neg_()
        save_reward_model(model, tmp_path / name / "model")
    rows = [{"prompt": g.prompt, "responses": g.responses, "gold": g.gold, "models": g.models}
            for g in groups]
    data, out = tmp_path / "g.jsonl", tmp_path / "out.json"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    paths = [str(tmp_path / name / "model") for name in names]
    main(["--model", *paths, "--data", str(data), "--output", str(out)])
    found = json.loads(out.read_text())
    assert list(found) == names and capsys.readouterr().out.startswith("bt-seed0")
    score = np.mean([found[name]["g.jsonl (K=8)"]["score"] for name in names[:2]])
    last = out.with_suffix(".md").read_text().strip().splitlines()[-1]
    assert last.startswith("| turned |") and f"; {-2 * score:+.3f} (" in last
    for wrong in (paths[:3], [paths[0], paths[3]], [paths[0], str(tmp_path)]):
        with pytest.raises(ConfigError, match="of each method the same seeds"):
            main(["--model", *wrong, "--data", str(data)])


def test_score_answers_takes_text_or_messages(model, groups):
    g = groups[0]
    ours = score_answers(model, g.prompt[0]["content"], g.responses)
    assert torch.equal(ours, score_answers(model, g.prompt, g.responses))
    assert_close_in_norm(ours, single_rewards(model, [g])[0], unit=1)
    assert score_answers(model, "Hi", ["only one"]).shape == (1,)


@pytest.mark.parametrize("responses", ["4.", [], [None], ["", "a"], None])
def test_score_answers_refuses_what_is_no_list_of_texts(model, responses):
    with pytest.raises(DataError, match="responses must be a list of non-empty texts"):
        score_answers(model, "Hi", responses)
    with pytest.raises(DataError, match="prompt"):
        score_answers(model, [{"content": "no role"}], ["a"])


def test_a_diverged_model_is_an_error_and_no_score(tiny_path, groups):
    broken = load_reward_model(tiny_path, dtype="float32")
    with torch.no_grad():
        broken.head_weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="rewards are not finite: it diverged"):
        evaluate(broken, groups[:3])


@pytest.mark.parametrize(("output", "message"), [
    ("o/out.md", "ends in .json"), ("o/llama-3.1", "ends in .json"), (".", "ends in .json"),
    ("file/x.json", "file is no folder to write to: File exists")])
def test_bad_output_names_are_refused_before_anything_is_loaded(tmp_path, output, message):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=message):
        main(["--model", "nobody/nothing", "--data", "missing.jsonl",
              "--output", str(tmp_path / output)])


@pytest.mark.parametrize("format", ["trl", "rm_bench", "reward_bench"])
def test_split_without_an_effect_is_refused(tmp_path, format):
    (tmp_path / "x.jsonl").write_text("{}")
    with pytest.raises(DataError, match="--split selects rows of pocket and judged files alone"):
        main(["--model", "m", "--format", format, "--data", str(tmp_path / "x.jsonl"),
              "--split", "dev"])


# ---- benchmarks ----------------------------------------------------------------------------------

DOMAINS = ("chat", "math", "code", "safety-refuse", "safety-response")


def bench_row(number, domain, key="domain"):
    words = [f"{w} {number}" for w in ("red", "green apple", "# Blue\n\n- sky", "stone",
                                       "the river runs", "**slowly** and quickly")]
    return {"id": str(number), "prompt": f"Question {number}?", "chosen": words[:3],
            "rejected": words[3:], key: domain}


def test_rm_bench_against_single_rewards_and_by_hand(model, tmp_path):
    rows = [bench_row(i, DOMAINS[i % 5]) for i in range(20)]
    rows[0]["rejected"][2] = rows[0]["chosen"][0]  # a tie is no win
    (tmp_path / "bench.json").write_text(json.dumps(rows))  # one array, as it is published
    groups = read_benchmark(str(tmp_path / "bench.json"), "rm_bench")
    result = evaluate_rm_bench(model, groups, token_budget=400)
    rewards = single_rewards(model, groups)
    assert rewards[0, 0] == rewards[0, 5]
    assert result["matrices"]["chat"][0][2] == np.mean(
        [(r[0] > r[5]).item() for r in rewards[::5]])
    by_hand = {}
    for d in DOMAINS:
        wins = [[np.mean([float(r[i] > r[3 + j]) for r in rewards[DOMAINS.index(d)::5]])
                 for j in range(3)] for i in range(3)]
        by_hand[d] = ((wins[0][1] + wins[0][2] + wins[1][2]) / 3,
                      (wins[0][0] + wins[1][1] + wins[2][2]) / 3,
                      (wins[1][0] + wins[2][0] + wins[2][1]) / 3)
    safety = np.mean([by_hand["safety-refuse"], by_hand["safety-response"]], axis=0)
    four = np.array([by_hand["chat"], by_hand["math"], by_hand["code"], safety])
    assert [result[k] for k in ("hard", "normal", "easy")] == pytest.approx(four.mean(0).tolist())
    assert [result[k] for k in ("chat", "math", "code", "safety")] == pytest.approx(
        four.mean(1).tolist())
    assert result["overall"] == pytest.approx(four.mean())
    assert 0 < result["overall"] < 1 and result["groups"] == dict.fromkeys(DOMAINS, 4)


def test_rm_bench_command_line(model, tmp_path, capsys):
    save_reward_model(model, tmp_path / "model")
    long = bench_row(99, "safety-refuse", "subset") | {"prompt": "word " * 300}
    rows = [bench_row(i, "safety-refuse", "subset") for i in range(3)] + [long]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = ["--model", str(tmp_path / "model"), "--format", "rm_bench",
               "--data", str(tmp_path / "b.jsonl"), "--max-length", "200",
               "--output", str(tmp_path / "out" / "r.json")]
    main(command)
    result = json.loads((tmp_path / "out" / "r.json").read_text())["rm_bench"]
    assert result["dropped"] == {"safety-refuse": 1} and result["groups"] == {"safety-refuse": 3}
    table = (tmp_path / "out" / "r.md").read_text()
    assert "No overall score" in table and "| safety-refuse |" in table
    assert table in capsys.readouterr().out
    groups = read_benchmark(str(tmp_path / "b.jsonl"), "rm_bench")
    with pytest.raises(DataError, match="all 4 prompts exceed max_length 3"):
        evaluate_rm_bench(model, groups, max_length=3)
    rows[0]["subset"] = "poetry"
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(DataError, match="b.jsonl, row 1: unknown RM-Bench domain 'poetry'"):
        main(command)


@pytest.mark.slow
def test_reward_bench_semantics_through_plain_transformers(model, tmp_path, pairs):
    """Ties are wrong, accuracy per subset: the command and a stranger's loop agree."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    rows = [{"prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected,
             "subset": ("easy", "refusals")[i % 2]} for i, p in enumerate(pairs)]
    rows[0]["rejected"] = rows[0]["chosen"]
    (tmp_path / "rb.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    save_reward_model(model, tmp_path / "model")
    main(["--model", str(tmp_path / "model"), "--data", str(tmp_path / "rb.jsonl"),
                  "--format", "reward_bench", "--output", str(tmp_path / "rb.json")])
    ours = json.loads((tmp_path / "rb.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()

    def reward(row, kind):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]},
             {"role": "assistant", "content": row[kind]}], tokenize=False)
        with torch.no_grad():
            return plain(**tokenizer(text, add_special_tokens=False,
                                     return_tensors="pt")).logits.item()

    wins = [reward(row, "chosen") > reward(row, "rejected") for row in rows]
    assert not wins[0] and 0 < np.mean(wins) < 1
    assert {k: v["score"] for k, v in ours.items()} == {
        "rb.jsonl: easy": np.mean(wins[::2]), "rb.jsonl: refusals": np.mean(wins[1::2]),
        "rb.jsonl: all": pytest.approx(np.mean(wins))}


def test_the_papers_validation_sets_in_one_table(model, tmp_path, groups, pairs, capsys):
    files = []
    for name in ("valid-2-prompt-ood", "valid-4-mutual-ood"):
        files.append(str(tmp_path / f"{name}.jsonl"))
        with open(files[-1], "w") as file:
            file.writelines(json.dumps({
                "instruction": g.prompt[0]["content"], "all_scores": g.gold[:4],
                **{f"response_{i + 1}_text": g.responses[i] for i in range(4)}}) + "\n"
                for g in groups[:9])
    files.append(str(tmp_path / "valid-1-in-domain.jsonl"))
    with open(files[-1], "w") as file:
        file.writelines(json.dumps({"prompt": p.prompt, "chosen": [{
            "role": "assistant", "content": p.chosen}], "rejected": [{
                "role": "assistant", "content": p.rejected}]}) + "\n" for p in pairs)
    save_reward_model(model, tmp_path / "model")
    command = ["--model", str(tmp_path / "model"), "--format", "robustness", "--data"]
    main([*command, *files, "--output", str(tmp_path / "all.json")])
    results = json.loads((tmp_path / "all.json").read_text())
    assert [(r["metric"], r["groups"]) for r in results.values()] == [
        ("tau", 9), ("tau", 9), ("accuracy", 24)]
    table = (tmp_path / "all.md").read_text()
    assert all(f"| {name} |" in table for name in results) and table in capsys.readouterr().out
    with pytest.raises(DataError, match="have the same name"):
        main([*command, files[0], files[0]])
