"""What the README shows has to run."""

import json
import re
from pathlib import Path

import pytest

from bsr_lite.config import SCENARIOS
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
    r"\b((?:bsr_lite|data|tests|notebooks)/[\w/.]+)", README))))
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


ROWS = {"linear heads, plain world, lambda .1": ("linear", "bsr-0.1"),
        "LoRA, 10 layers, 4 seeds": ("study_lora", "bsr"),
        "full fine-tuning, 30 layers, 4 seeds": ("study_norms", "bsr"),
        "judged answers, QLoRA, 3 seeds": ("study_judged", "bsr"),
        "postscript, LoRA, 3 seeds, lambda .01": ("study_postscript", "bsr-1e-2")}


def test_result_table_is_the_recorded_one():
    """One row a study, BSR minus BT in the four scenarios."""
    start = README.splitlines().index(next(x for x in README.splitlines()
                                           if x.startswith("| BSR - BT |")))
    rows = README.splitlines()[start + 2:]
    for (name, (study, method)), row in zip(ROWS.items(), rows, strict=False):
        table = read_table(ROOT / "data/runs" / study)
        cells = (table["plain"] if study == "linear" else table)[method]
        shown = [text.strip() for text in row.split("|")[1:-1]]
        assert shown[0] == name
        for part, text in zip(SCENARIOS, shown[1:], strict=True):
            expected = "{:+.3f} ({:+.3f} to {:+.3f})".format(*cells[part]["difference"])
            assert text == expected.replace("0.", ".")
    assert not rows[len(ROWS)].startswith("|")


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
                assert cell["nll"] == pytest.approx(recorded["nll"])


def test_commands_it_shows_parse():
    from bsr_lite.config import load_config
    for config, override in re.findall(
            r"train_rm --config (\S+)(?: --set (\S+))?", README):
        load_config(ROOT / config, overrides=[override] if override else [])


def test_the_gpu_table_says_what_the_headers_of_its_configs_say():
    """Their numbers are checked against the commands in test_paper_configs.py."""
    table = README[README.index("## On your GPU"):README.index("## What was measured")]
    rows = re.findall(r"\| train_(?:rm|rloo), `(\S+)` \| ([\d.]+) \| (.+?) \| no \|", table)
    assert len(rows) == 5
    for path, gigabytes, hours in rows:
        header = " ".join(line.lstrip("# ") for line in (ROOT / path).read_text().splitlines()
                          if line.startswith("#"))
        assert re.search(rf"`scale.estimate --card \w+`: {re.escape(gigabytes)} GB", header), path
        for number in re.findall(r"[\d.]+(?= \(|\))", hours):
            assert f"at most {number} hours" in header, (path, number)
