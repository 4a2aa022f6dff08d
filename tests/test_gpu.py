"""What `make gpu` would say, without a card: its parts at their smallest, and what becomes of them
when a number is wrong, a part breaks, or time is over."""

import doctest
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

GPU = Path(__file__).with_name("gpu")  # scripts, run by hand
sys.path[:0] = [str(GPU), str(GPU.with_name("speed"))]
import attention  # noqa: E402
import cost  # noqa: E402
import exact  # noqa: E402
import parts  # noqa: E402
import prove  # noqa: E402

TINY = {"exactness": {"layers": 1, "pairs": 3, "length": 80, "draws": 1024, "words": [32]},
        "kernels": {"heads": [[4, 2, 16]], "groups": 2, "length": 16, "repeats": 1},
        "memory": {"layers": 1, "length": 16, "budgets": [64]},
        "speed": {"layers": 1, "length": 32, "budgets": [64], "repeats": 1, "matrix": 128,
                  "prompts": 1, "answers": 2, "new_tokens": 2},
        "notebooks": {"names": ["09_long"], "seconds": 60}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    monkeypatch.setitem(prove.SIZES, "cpu", TINY)


def inside(name, out, **functions):
    record = prove.inside(name, "cpu", out, 60, parts.FUNCTIONS | functions)
    assert record == prove.read(out / f"{name}.json")
    return record


def command(out, *options):
    return subprocess.run([sys.executable, GPU / "prove.py", "--device", "cpu", "--out", out,
                           *options], capture_output=True, text=True, check=False)


# ---- the parts -----------------------------------------------------------------------------------

@pytest.mark.slow
def test_losses_gradients_policies_sampling_and_a_resumed_run_are_exact(tmp_path):
    record = inside("exactness", tmp_path)
    assert record["result"] == "passed", record.get("error") or record.get("traceback")
    names = {c["what"] for c in record["found"]["checks"]}
    for kind in ("full", "lora", "qlora"):
        for loss in ("bt", "bsr"):
            assert {f"{kind}, {loss}, {dtype}, error of {what}" for what in (
                "rewards", "loss", "gradient") for dtype in ("float32", "bfloat16")} <= names
    assert all(row["micro-batches"] > 1 for row in record["found"]["tables"]["steps"])
    assert not list(tmp_path.glob("work*"))


@pytest.mark.slow
def test_a_loss_that_is_off_by_a_thousandth_fails(tmp_path, monkeypatch):
    """On the card's side alone, which is the one in micro-batches."""
    real = exact.step_of

    def perturbed(model, token_groups, loss, budget, scale=1.0):
        found = real(model, token_groups, loss, budget, scale)
        return found | {"loss": found["loss"] * (1.001 if budget < 2**30 else 1.0)}

    monkeypatch.setattr(exact, "KINDS", {"lora": exact.KINDS["lora"]})
    monkeypatch.setattr(exact, "step_of", perturbed)
    monkeypatch.setattr(exact, "compare_policies", lambda *_: [])
    monkeypatch.setattr(exact, "resume_distance", lambda job: {
        "steps then": 2, "resumed": 0.0, "done again, unbroken": 0.0})
    record = inside("exactness", tmp_path)
    assert record["result"] == "failed"
    assert "lora, bt, float32, error of loss: 0.001 is not within 0 to 0.0001" in record["error"]
    assert "gradient" not in record["error"]


def test_a_half_precision_gradient_may_be_off_twice_as_far_as_on_a_cpu_and_no_further():
    assert exact.gradient_limit({"limit": 0.03}) == 0.03
    assert exact.gradient_limit({"limit": 0.03, "gradient on the CPU": 0.04}) == 0.08
    assert exact.gradient_limit({"limit": 0.03, "gradient on the CPU": 0.4}) == 0.15


def test_a_number_that_is_none_fails_and_is_json(tmp_path):
    record = inside("speed", tmp_path, speed=lambda job: {
        "checks": [prove.check("it", float("nan"), 1)]})
    assert record["result"] == "failed" and record["found"]["checks"][0]["value"] == "NaN"


def test_draws_of_another_distribution_fail(monkeypatch):
    good = exact.compare_draws(32, 1024)
    assert good["chi-square (15 expected)"] < 42.6 and good["as the CPU draws"] == 1
    real = exact.draw
    monkeypatch.setattr(exact, "draw", lambda logits, generator: real(0.7 * logits, generator))
    assert exact.compare_draws(32, 1024)["chi-square (15 expected)"] > 42.6


def test_kernels_are_compared_and_a_wrong_one_fails(tmp_path, monkeypatch):
    record = inside("kernels", tmp_path)
    assert record["result"] == "passed", record.get("error") or record.get("traceback")
    (rows,) = record["found"]["tables"].values()
    ran = {row["kernel"]: row["ran"] for row in rows if row["format"] == "bfloat16"}
    assert ran["varlen"].startswith("cannot") and "attention" in ran["expanded"]
    real = attention.packed_attention
    monkeypatch.setattr(attention, "packed_attention", lambda *args, scaling, packed: real(
        *args, scaling=scaling * (1 if packed.kernel == "grouped" else 1.1), packed=packed))
    wrong = inside("kernels", tmp_path)
    assert wrong["result"] == "failed" and "expanded, float32: out" in wrong["error"]
    assert "grouped" not in wrong["error"]


@pytest.mark.slow
def test_memory_is_compared_and_a_wrong_estimate_fails(tmp_path, monkeypatch):
    record = inside("memory", tmp_path)
    assert record["result"] == "passed", record.get("error") or record.get("traceback")
    assert len(record["found"]["tables"]["activations"]) == 3  # full, LoRA, QLoRA
    monkeypatch.setattr(cost, "KINDS", {"lora": cost.KINDS["lora"]})
    monkeypatch.setattr(cost, "measure", lambda config: cost.estimate(config)["activations"] * 1.3)
    assert "estimate / measured: 0.769 is not within 0.8 to 1.25" in inside(
        "memory", tmp_path)["error"]


@pytest.mark.slow
def test_speed_is_measured_in_training_scoring_and_sampling(tmp_path):
    record = inside("speed", tmp_path)
    assert record["result"] == "passed", record.get("error") or record.get("traceback")
    rows = record["found"]["tables"]["of the embedded model"]
    assert [row["what"].partition(",")[0] for row in rows] == ["train"] * 3 + ["score", "sample"]
    assert all(row["tokens/s"] > 0 for row in rows)
    assert not list(tmp_path.glob("tmp*"))


@pytest.mark.slow
def test_notebooks_pass_fail_and_run_out_of_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for name, code in {"good": "1", "bad": "1 / 0", "long": "import time; time.sleep(60)"}.items():
        (tmp_path / f"notebooks/{name}.py").write_text(code)
    rows = {name: parts.run_notebook(name, seconds) for name, seconds in (
        ("good", 20), ("bad", 20), ("long", 0.5))}
    assert [row["result"] for row in rows.values()] == ["passed", "failed", "out of time"]
    assert "ZeroDivisionError" in rows["bad"]["last"] and str(tmp_path) not in rows["bad"]["last"]


def test_cards_are_found_by_their_full_names():
    for name, tflops in {"Tesla T4": 65, "NVIDIA A100-SXM4-40GB": 312, "NVIDIA L40S": 362,
                         "NVIDIA H100 80GB HBM3": 989, "NVIDIA GeForce RTX 2080 Ti": 54,
                         "NVIDIA GeForce RTX 3060": 25.5, "NVIDIA L4": 121}.items():
        assert cost.published_peak(name) == tflops * 1e12
    for name in ("NVIDIA GeForce RTX 3070 Ti", "NVIDIA L40"):
        assert cost.published_peak(name) is None


# ---- what becomes of them ------------------------------------------------------------------------

def test_a_part_that_raises_is_recorded_with_its_whole_message(tmp_path):
    def breaks(job):
        raise RuntimeError(f"CUDA error: {'long ' * 100}in {Path(__file__)}")

    record = inside("speed", tmp_path, speed=breaks)
    assert record["result"] == "failed" and "long " * 100 in record["error"]
    assert "RuntimeError" in record["traceback"][-1] and str(prove.ROOT) not in str(record)


@pytest.fixture
def stub(monkeypatch):
    """Parts that do nothing, in this process; what they find is asked for by name."""
    done, results = [], {}

    def attempt(name, device, out, seconds):
        done.append(name)
        return prove.inside(name, device, out, seconds, {name: results.get(
            name, lambda job: {"line": f"{name} is fine"})})

    monkeypatch.setattr(prove, "attempt", attempt)
    return done, results


def test_what_failed_is_done_again_and_what_passed_is_not(tmp_path, stub, capsys):
    done, results = stub
    results["memory"] = lambda job: {"checks": [prove.check("ratio", 2.0, 1.25, 0.8)]}
    options = ["--device", "cpu", "--out", str(tmp_path)]
    assert prove.main(options) == 1 and done == list(prove.PARTS)
    out = capsys.readouterr().out
    assert "NOT PASSED: memory" in out and "ratio: 2 is not within 0.8 to 1.25" in out
    del results["memory"]
    assert prove.main(options) == 0 and done[len(prove.PARTS):] == ["memory"]
    assert "machine: passed before with the same code, not done again" in capsys.readouterr().out
    assert prove.main([*options, "--only", "trl"]) == 0 and done[-1] == "trl"
    summary = (tmp_path / "summary.md").read_text()
    assert "| trl | passed |" in summary and "machine is fine" in summary
    assert set(json.loads((tmp_path / "results.json").read_text())["parts"]) == set(prove.PARTS)
    assert f"data/runs/{tmp_path.name}" in (tmp_path / "README.md").read_text()
    record = prove.read(tmp_path / "trl.json")
    record["key"]["code"] = "another"
    (tmp_path / "trl.json").write_text(json.dumps(record))
    assert prove.main([*options, "--only", "speed"]) == 0
    assert "| trl | passed, of other code |" in (tmp_path / "summary.md").read_text()
    assert prove.main(options) == 0 and done[-1] == "trl"


def test_parts_after_nine_minutes_are_not_reached(tmp_path, stub, monkeypatch, capsys):
    done, _ = stub
    monkeypatch.setattr(prove, "TOTAL", 14)  # less than a part may need
    assert prove.main(["--device", "cpu", "--out", str(tmp_path)]) == 1 and done == []
    assert "machine: ... not reached" in capsys.readouterr().out
    assert prove.read(tmp_path / "run.json")["result"] == "not reached"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_ended_from_outside_no_part_goes_on(tmp_path):
    program = subprocess.Popen([sys.executable, GPU / "prove.py", "--device", "cpu", "--out",
                                tmp_path, "--only", "exactness"], stdout=subprocess.PIPE, text=True)
    assert "exactness" in program.stdout.read(20)
    children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
    if not children.exists():
        program.kill()
        pytest.skip("this system does not name a process's children")
    deadline = time.monotonic() + 30
    while not (part := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)  # the program has to hold what it started
    program.terminate()
    assert program.wait(30) == 1 and part
    assert not Path("/proc", part[0]).exists()


def test_a_process_that_dies_or_hangs_is_recorded(tmp_path, monkeypatch):
    script = tmp_path / "script.py"
    monkeypatch.setattr(prove, "__file__", str(script))
    script.write_text("import os; print('last words', flush=True); os._exit(7)")
    record = prove.attempt("machine", "cpu", tmp_path, 20)
    assert (record["result"], record["error"]) == ("failed", "its process ended with code 7")
    assert record["traceback"] == ["last words"] and record == prove.read(tmp_path / "machine.json")
    script.write_text("import time; time.sleep(60)")
    record = prove.attempt("machine", "cpu", tmp_path, 0.5)
    assert record["result"] == "out of time" and record["process_seconds"] < 10


@pytest.mark.slow
def test_the_command_writes_a_record_and_skips_what_it_has(tmp_path):
    done = command(tmp_path, "--only", "machine")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[1/8] machine: ... passed" in done.stdout and "all passed" in done.stdout
    found = prove.read(tmp_path / "machine.json")["found"]
    assert found["line"].startswith("no CUDA GPU: the CPU computes")
    assert found["environment"]["gpus"] == []
    text = "".join(p.read_text() for p in tmp_path.iterdir())
    assert not re.search("/" + r"(home|root|tmp|Users|work)/\w", text)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
@pytest.mark.slow
def test_without_a_card_one_line_says_so_and_how():
    done = subprocess.run([sys.executable, GPU / "prove.py"], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "no CUDA GPU here" in done.stderr and "prove.py --device cpu" in done.stderr


def test_the_examples_in_docstrings_are_right():
    for module in (prove, cost):
        assert doctest.testmod(module).failed == 0 < doctest.testmod(module).attempted


def test_texts_name_no_folders():
    text = f'File "{prove.ROOT}/bsr_lite/step.py", "/opt/x/lib/torch/nn.py" 3 tokens/s, a/b, ' \
           r'http://a.b/c C:\Users\me\x.py'
    assert prove.clean(text) == ('File "bsr_lite/step.py", ".../nn.py" 3 tokens/s, a/b, '
                                 r'http://a.b/c ...\x.py')
