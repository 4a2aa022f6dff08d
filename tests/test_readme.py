"""What the README shows has to run."""

import json
import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("page", ["README.md", "data/runs/LOG.md"])
def test_result_table_is_the_recorded_one(page):
    table = json.loads((ROOT / "data/runs/study_pocket/results.json").read_text())["table"]
    for method, name in (("bt", "BT"), ("bsr", "BSR")):
        lines = (ROOT / page).read_text().splitlines()
        line = next(x for x in lines if x.startswith(f"| {name} |") and x.count("|") == 6)
        for cell, shown in zip(table[method].values(), line.split("|")[2:], strict=False):
            expected = "{:.3f} ({:.3f} to {:.3f})".format(cell["mean"], cell["low"], cell["high"])
            assert shown.strip() == expected.replace("0.", ".")


def test_commands_it_shows_parse():
    from bsr_lite.config import load_config
    for config, override in re.findall(
            r"train_rm --config (\S+)(?: --set (\S+))?", README):
        load_config(ROOT / config, overrides=[override] if override else [])
