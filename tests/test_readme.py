"""What the README shows has to run."""

import json
import re
from pathlib import Path

import pytest

from bsr_lite.studies.records import read_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_ten_line_script_trains_with_bsr(capsys):
    code = next(c for c in re.findall(r"```python\n(.*?)```", README, re.S) if "losses" in c)
    assert code.count("\n") <= 12 and "bsr_lite.losses" in code
    found = {}
    for loss in ("bsr", "bt"):
        plain = code.replace('"bsr"', '"bt"').replace(", bsr_lambda=1e-2", "")
        exec(compile(code if loss == "bsr" else plain, "README.md", "exec"), {})
        printed = capsys.readouterr().out.split()
        found[loss] = float(printed[-3]), float(printed[-1])
    assert min(accuracy for accuracy, _ in found.values()) > 0.9
    assert abs(found["bsr"][1]) < 0.1 < 0.5 < abs(found["bt"][1])  # what BSR pins and BT cannot see


@pytest.mark.parametrize("path", sorted(set(re.findall(
    r"\b((?:bsr_lite|data|tests|notebooks)/[\w/.-]+)", README))))
def test_every_file_it_names_exists(path):
    assert (ROOT / path.rstrip("./")).exists()


def test_study_pockets_table_in_the_log_is_the_recorded_one():
    table = read_table(ROOT / "data/runs/study_pocket")
    lines = (ROOT / "data/runs/LOG.md").read_text().splitlines()
    for method, name in (("bt", "BT"), ("bsr", "BSR")):
        line = next(x for x in lines if x.startswith(f"| {name} |") and x.count("|") == 6)
        for cell, shown in zip(table[method].values(), line.split("|")[2:], strict=False):
            expected = "{:.3f} ({:.3f} to {:.3f})".format(cell["mean"], cell["low"], cell["high"])
            assert shown.strip() == expected.replace("0.", ".")


RECORDS = ROOT / "data/runs"
NUMBER = r"(?<![\w.-])[+-]?(?:\d+)?\.\d+"  # with a point; what is named 1e-3 is a method


def written(values, form: str) -> str:
    """mean (low to high), as the README writes it."""
    mean, low, high = (re.sub(r"^([+-]?)0\.", r"\1.", format(v, form)) for v in values)
    return f"{mean} ({low} to {high})"


def difference(study: str, method: str, part: str) -> list[str]:
    return [written(read_table(RECORDS / study)[method][part]["difference"], "+.3f")]


def on_new_sources(world: str, method: str) -> str:
    worlds = json.loads((RECORDS / "worlds/results.json").read_text())["worlds"]
    mean, half = worlds[world]["objectives"][method]["difference"]["response_disjoint"]
    word = "gains" if mean > 0 else "costs"
    return f"{word} {abs(mean):.3f} ± {half:.3f}".replace("0.", ".")


def foretold_inside() -> list[str]:
    cells = [c for world in read_table(RECORDS / "linear").values()
             for parts in list(world.values())[1:] for c in parts.values()]
    inside = [c["difference"][1] <= c["predicted"] <= c["difference"][2] for c in cells]
    return [f"{sum(inside)} of {len(cells)}"]


def of_people() -> list[str]:
    text = (RECORDS / "people/llmbar.md").read_text()
    header, _, bt, *others = text[text.rindex("| method |"):].splitlines()
    place = [i for i, name in enumerate(header.split("|")) if "all" in name][-1]
    bsr = next(row for row in others if row.startswith("| bsr-1e-2 |")).split("|")[place]
    return [x.strip().replace("0.", ".") for x in (bt.split("|")[place], bsr.split(";")[1])]


def shares(study: str, *names: str) -> list[str]:
    table = read_table(RECORDS / study)
    found = [table["methods"][n]["share"][-1] if study == "best_of_n" else table[n]["share"]
             for n in names]
    return [written(share, ".2f") for share in found]


def speed() -> list[str]:
    text = (RECORDS / "bench/results.md").read_text()
    return [re.search(rf"\| {what} \| TRL, best settings \| ([^|]*) \|", text)[1]
            for what in ("judged, LoRA, bf16", "pocket, full, fp32")]


RESULTS = {  # the bold words of a result -> what of it has to be in its sentence
    "Small worlds": lambda: [on_new_sources("helps", "bsr-1e-2"),
                             on_new_sources("mean on the signal", "bsr-1e-2")],
    "Its terms in worlds": lambda: [on_new_sources("helps", "spread-1e-1"),
                                    on_new_sources("helps", "level-1e-2")],
    "Foretold before training": foretold_inside,
    "LoRA, 10 layers": lambda: difference("study_lora", "bsr", "mutual_disjoint"),
    "LoRA, rewritten answers": lambda: difference("study_postscript", "bsr-1e-2", "prompt_shifted"),
    "Its terms in LoRA": lambda: [
        *difference("study_postscript", "level-1e-2", "prompt_shifted"),
        *difference("study_postscript", "spread-1e-1", "prompt_shifted")],
    "Full fine-tuning, 30 layers": lambda: difference("study_norms", "bsr", "mutual_disjoint"),
    "Real judged answers, QLoRA": lambda: difference("study_judged", "bsr", "mutual_disjoint"),
    "Labels of people": of_people,
    "Best of 64": lambda: shares("best_of_n", "bt", "bsr"),
    "RLOO policies": lambda: shares("study_rloo", "bt-kl0.0", "bsr-kl0.0"),
    "RLOO, rewritten answers": lambda: shares("study_rloo_style", "bt-kl0.0", "spread-1e-1-kl0.0"),
    "Speed": speed}


def results() -> dict[str, str]:
    """The sentence of each result by its bold words, white space as one space."""
    text = " ".join(README[README.index("## Results"):README.index("## Use it")].split())
    return {found[0]: found[1] for found in re.findall(r"- \*\*(.+?)\*\*(.*?)(?= - \*\*|$)", text)}


def test_every_result_is_the_recorded_one_and_links_to_it():
    assert list(results()) == list(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_a_results_numbers_are_the_recorded_ones(name):
    """All of them, in this order, and no other number with a decimal point."""
    said, expected = results()[name], RESULTS[name]()
    for text in expected:
        assert text in said, f"{name}: {text} is not in {said!r}"
    assert re.findall(NUMBER, said) == re.findall(NUMBER, " ".join(expected))
    study = re.search(r"\]\(data/runs/(\w+)/", said)
    if study and "seeds)" in said:
        seeds = {p.name.rpartition("-seed")[2] for p in (RECORDS / study[1]).glob("*-seed*")}
        assert f"{('three', 'four')[len(seeds) - 3]} seeds" in said


def test_it_stays_short_and_opens_with_what_a_person_gets():
    first = README[:README.index("## Lessons")]
    assert len(README.split()) <= 1200 and first.count("](data/runs/worlds/results.png)") == 1
    assert README.count("![") == 1


def test_times_are_those_of_the_log():
    log = (RECORDS / "LOG.md").read_text()
    for command in ("run", "test"):
        time = re.search(rf"make {command} .*# ([\d.]+) minutes", README)[1]
        assert re.search(rf"^\| `make {command}`.*\| {re.escape(time)} minutes", log, re.M)


def test_all_records_are_of_the_machines_it_names():
    found = [json.loads(path.read_text()) for path in RECORDS.rglob("env.json")]
    assert {(env["machine"], env["cpu"], *env["gpus"]) for env in found} == {
        ("x86_64", "AVX512"), ("x86_64", "AVX2")}
    assert "x86-64 CPUs (AVX512, AVX2)" in README


def test_of_a_gpu_it_says_what_the_one_record_shows():
    folder, = RECORDS.glob("gpu_*")
    found = {p.stem: json.loads(p.read_text()) for p in folder.glob("*.json")}
    parts = {name: part["result"] for name, part in found.items() if name != "results"}
    assert f"]({folder.relative_to(ROOT).as_posix()}/summary.md)" in README
    assert "| H100, five of eight parts |" in README
    assert sorted(p for p in parts if parts[p] == "passed") == [
        "exactness", "kernels", "machine", "memory", "speed"]
    rows = found["memory"]["found"]["tables"]["activations"]
    ratios = [row["estimate / measured"] for row in rows]
    assert all(abs(ratio - 1) < 0.02 for ratio in ratios) and "within 2% of the estimate" in README


@pytest.mark.slow
def test_studies_are_what_their_runs_recorded(monkeypatch):
    """Redrawn from data/runs alone, they give the recorded tables to the last digit."""
    from bsr_lite.config import load_config
    from bsr_lite.studies.records import by_method, recorded_runs
    from bsr_lite.studies.reward_models import StudyConfig, clusters, decided_by, run_configs
    from bsr_lite.studies.tables import summarize
    monkeypatch.chdir(ROOT)
    for name in ("study_lora", "study_judged"):
        path = ROOT / f"bsr_lite/configs/{name}.yaml"
        study = load_config(path, StudyConfig)
        configs = run_configs(study, path)
        found = recorded_runs(configs, **decided_by(study))
        assert list(found) == list(configs)
        topics = clusters(study, next(iter(configs.values())), next(iter(found.values())))
        again = json.loads(json.dumps(summarize(by_method(found), topics)))
        for method, cells in again.items():
            for part, cell in cells.items():
                recorded = read_table(ROOT / "data/runs" / name)[method][part]
                assert cell["difference"] == pytest.approx(recorded["difference"])
                assert cell["between"] == pytest.approx(recorded["between"])


def test_commands_it_shows_parse():
    from bsr_lite.config import load_config
    for config, override in re.findall(
            r"train_rm --config (\S+)(?: --set (\S+))?", README):
        load_config(ROOT / config, overrides=[override] if override else [])


def test_the_gpu_table_says_what_the_headers_of_its_configs_say():
    """Their numbers are checked against the commands in test_paper_configs.py."""
    table = README[README.index("## On your GPU"):README.index("## Commands")]
    rows = re.findall(r"\| train_(?:rm|rloo), `(\S+)` \| ([\d.]+) \| (.+?) \| no \|", table)
    assert len(rows) == 5
    for path, gigabytes, hours in rows:
        header = " ".join(line.lstrip("# ") for line in (ROOT / path).read_text().splitlines()
                          if line.startswith("#"))
        assert re.search(rf"`scale.estimate --card \w+`: {re.escape(gigabytes)} GB", header), path
        for number in re.findall(r"[\d.]+(?= \(|\))", hours):
            assert f"at most {number} hours" in header, (path, number)
