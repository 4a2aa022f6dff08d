import contextlib
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from bsr_lite.errors import ConfigError, DataError
from bsr_lite.eval_rm import score_answers
from bsr_lite.gold import gold_reward, gold_terms
from bsr_lite.models import load_reward_model
from bsr_lite.saving import save_reward_model
from bsr_lite.studies.best_of_n import curves, main, run_best_of_n

ROWS = "".join(json.dumps({
    "prompt": f"Name {n} birds.", "split": "valid" if n else "train", "unit": "item", "count": 2,
    "stems": ["bird"]}) + "\n" for n in range(6))


def write_bon(folder, tiny_path):
    """Two methods of three seeds each, saved untrained, and five prompts; paths are relative, so
    that all may be copied elsewhere."""
    (folder / "rows.jsonl").write_text(ROWS)
    for seed in range(6):
        run = folder / "study" / f"{('bt', 'bsr')[seed % 2]}-seed{seed // 2}"
        model = load_reward_model(tiny_path, lora_rank=2, dtype="float32", seed=seed)
        save_reward_model(model, run / "model")
    config = {"proxies": "study", "methods": ["bt", "bsr"], "output_dir": "out",
              "policy": tiny_path, "data": "rows.jsonl", "prompts": 4, "num_samples": 8,
              "max_new_tokens": 6}
    (folder / "bon.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def files(tmp_path_factory, tiny_path):
    folder = tmp_path_factory.mktemp("files")
    write_bon(folder, tiny_path)
    return folder


@pytest.fixture(scope="module")
def first_run(tmp_path_factory, files):
    """One run for all tests: its results and its table."""
    folder = tmp_path_factory.mktemp("first_run")
    shutil.copytree(files, folder, dirs_exist_ok=True)
    with contextlib.chdir(folder):
        return folder / "out", run_best_of_n(folder / "bon.yaml")


@pytest.fixture
def bon(files, tmp_path, monkeypatch):
    """Everything before the first run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    return tmp_path / "bon.yaml"


@pytest.fixture
def finished(bon, first_run, tmp_path):
    """Everything after the first run."""
    shutil.copytree(first_run[0], tmp_path / "out")
    return bon


@pytest.mark.slow
def test_scores_are_those_of_gold_and_of_the_models(finished, first_run, tmp_path):
    _, table = first_run
    scores = np.load(tmp_path / "out" / "scores.npz")
    samples = [json.loads(line) for line in
               next((tmp_path / "out").glob("samples-*/samples.jsonl")).read_text().splitlines()]
    assert len(samples) == 4 and all(len(s["responses"]) == 8 for s in samples)
    one = samples[2]
    assert scores["gold"][2, 5] == pytest.approx(gold_reward(gold_terms(
        one["responses"][5], unit="item", count=2, stems=["bird"], finished=one["finished"][5])))
    model = load_reward_model(str(tmp_path / "study" / "bsr-seed1" / "model"))
    expected = score_answers(model, one["prompt"], [r or " x" for r in one["responses"]])
    full = [bool(r) for r in one["responses"]]
    assert scores["bsr-seed1"][2][full] == pytest.approx(expected.numpy()[full], abs=2e-3)
    assert table["n"] == [1, 2, 4, 8] and list(table["methods"]) == [
        "bt", "bsr", "normal noise", "heavy-tailed noise"]
    first = table["methods"]["bt"]["gold"][0]
    assert first[0] == pytest.approx(scores["gold"].mean(), abs=1e-6)
    assert table["methods"]["bsr"]["difference"][0][0] == 0  # n = 1: the same sample
    assert "| bsr |" in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_samples(finished, first_run, tmp_path, one_thread):
    path = next((tmp_path / "out").glob("samples-*/samples.jsonl"))
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:2]) + '{"prompt": "Nam')  # torn
    assert run_best_of_n(finished) == first_run[1] and path.read_text() == whole


@pytest.mark.slow
def test_other_prompts_and_other_weights_are_no_cache(finished, tmp_path):
    before = dict(np.load(tmp_path / "out" / "scores.npz"))
    model = load_reward_model(str(tmp_path / "study/bsr-seed0/model"))
    with torch.no_grad():
        model.head_weight.neg_()
    save_reward_model(model, tmp_path / "study/bsr-seed0/model")
    run_best_of_n(finished)
    after = dict(np.load(tmp_path / "out" / "scores.npz"))
    assert after["bsr-seed0"] == pytest.approx(-before["bsr-seed0"], abs=2e-3)
    assert (after["bsr-seed1"] == before["bsr-seed1"]).all()
    text = (tmp_path / "rows.jsonl").read_text().replace('"count": 2', '"count": 1')
    (tmp_path / "rows.jsonl").write_text(text)
    run_best_of_n(finished)
    assert (np.load(tmp_path / "out" / "scores.npz")["gold"] != before["gold"]).any()


@pytest.mark.slow
def test_what_is_scored_is_not_scored_again_and_records_are_read_back(
        finished, first_run, tmp_path, monkeypatch):
    monkeypatch.setattr("bsr_lite.studies.best_of_n.reward_scorer",
                        lambda *a: pytest.fail("scored again"))
    assert run_best_of_n(finished) == first_run[1]
    shutil.move(tmp_path / "out", tmp_path / "data" / "runs" / "out")
    shutil.rmtree(tmp_path / "study")
    assert run_best_of_n(finished, resume=True) == json.loads(json.dumps(first_run[1]))
    with pytest.raises(ConfigError, match=r"study holds trained models .*'bt': \[\]"):
        run_best_of_n(finished)


def test_a_proxy_that_is_gold_reaches_the_best_and_its_negative_the_worst():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(40, 16))
    scores = {"gold": gold, "words": rng.integers(1, 90, gold.shape),
              **{f"bt-seed{s}": gold for s in (0, 1)}, **{f"bad-seed{s}": -gold for s in (0, 1)}}
    table = curves(scores)
    assert [g[0] for g in table["methods"]["bt"]["gold"]] == pytest.approx(table["best"])
    assert table["methods"]["bad"]["gold"][-1][0] == pytest.approx(gold.min(1).mean())
    for name in ("bt", "bad"):
        proxy = [mean for mean, *_ in table["methods"][name]["proxy"]]
        assert proxy[0] == pytest.approx(0, abs=1e-12) and proxy == sorted(proxy)
    bt, bad = (table["methods"][name] for name in ("bt", "bad"))
    assert bt["correlations"] == pytest.approx([1, 1]) and bad["correlations"] == pytest.approx(
        [-1, -1])
    assert [share[0] for share in bt["share"][1:]] == pytest.approx([1] * 4)  # all is kept
    assert bt["shares"] == [pytest.approx([1] * 4)] * 2 and bt["share"][0] == (None, None, None)
    assert all(share[0] < 0 for share in bad["share"][1:])


def test_the_share_kept_is_the_correlation_unless_noise_has_heavy_tails():
    """Normal gold: what a proxy with normal noise keeps is the correlation at every n; with heavy
    tails gold turns down and the share falls, both beyond their intervals."""
    rng = np.random.default_rng(1)
    gold = rng.normal(size=(400, 64))
    scores = {"gold": gold, "words": np.ones_like(gold), **{
        f"bt-seed{s}": gold + rng.normal(size=gold.shape) * 4 / 3 for s in range(3)}}  # .6
    table = curves(scores)["methods"]
    for name in ("bt", "normal noise"):
        assert table[name]["correlations"] == pytest.approx([0.6] * 3, abs=0.02)
        for share, low, high in table[name]["share"][1:]:
            assert share == pytest.approx(0.6, abs=0.05) and low < 0.62 and high > 0.58
    heavy = table["heavy-tailed noise"]
    assert heavy["share"][-1][2] < heavy["share"][1][1]
    top = max(gold[1] for gold in heavy["gold"])  # a lower end
    assert heavy["gold"][-1][2] < top, "gold turns down beyond its interval"


def test_bad_input_is_refused(bon, tmp_path):
    with pytest.raises(DataError, match="5 prompts of split 'valid', 6 asked for"):
        run_best_of_n(bon, ["prompts=6"])
    with pytest.raises(ConfigError, match="each method needs the same ones"):
        run_best_of_n(bon, ["methods=[dr]"])
    with pytest.raises(ConfigError, match="num_samples must be greater than or equal to 2, got 1"):
        main(["--config", str(bon), "--set", "num_samples=1"])
    shutil.move(tmp_path / "study/bsr-seed2", tmp_path / "study/bsr-seed7")
    with pytest.raises(ConfigError, match=r"'bsr': \[0, 1, 7\]"):
        run_best_of_n(bon)
    for key, value, message in (("count", 0, "row 3: the pocket world's gold needs"),
                                ("stems", "bird", "row 3: the pocket world's gold needs"),
                                ("unit", "items", "sentence or item"),
                                ("prompt", " ", "row 3: instruction, or prompt, must be")):
        rows = [json.loads(line) for line in ROWS.splitlines()]
        rows[2][key] = value
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        with pytest.raises(DataError, match=message):
            run_best_of_n(bon, ["methods=[bt]"])
    (tmp_path / "rows.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match="row 1: expected an object"):
        run_best_of_n(bon, ["methods=[bt]"])
