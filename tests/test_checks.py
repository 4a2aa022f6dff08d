"""The exercise checkers accept right answers (the solutions, in CI), and only those."""

import inspect

import pytest
import torch

from bsr_lite import checks

CHECKERS = {n: f for n, f in vars(checks).items() if n.startswith("check_")}


@pytest.mark.parametrize("check", CHECKERS.values(), ids=CHECKERS)
def test_a_stub_is_not_attempted_yet(check, capsys):
    assert check(lambda *arguments: None) is False
    assert "not attempted yet" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [lambda *a: 0.123, lambda *a: torch.zeros(2, 3, 4),
                                   lambda *a: float("nan")], ids=["value", "shape", "nan"])
@pytest.mark.parametrize("check", CHECKERS.values(), ids=CHECKERS)
def test_a_wrong_answer_gets_a_hint(check, wrong, capsys):
    assert check(wrong) is False
    printed = capsys.readouterr().out
    assert "not yet" in printed and "Hint: " in printed


def test_the_accumulation_checker_notices_a_whole_batch(capsys):
    def cheat(rewards, parts, head, bsr_lambda):
        head = head.clone().requires_grad_()
        chosen, rejected = (rewards(torch.cat(c), head) for c in zip(*parts, strict=True))
        (checks.bt_loss(chosen, rejected)
         + bsr_lambda * checks.bsr_penalty(chosen, rejected)).backward()
        return head.grad

    assert checks.check_accumulated_gradient(cheat) is False
    assert "saw more than a micro-batch" in capsys.readouterr().out


def test_a_naive_accumulation_is_wrong(capsys):
    def naive(rewards, parts, head, bsr_lambda):
        head = head.clone().requires_grad_()
        for chosen, rejected in parts:
            r_w, r_l = rewards(chosen, head), rewards(rejected, head)
            share = len(chosen) / 9
            (share * (checks.bt_loss(r_w, r_l)
                      + bsr_lambda * checks.bsr_penalty(r_w, r_l))).backward()
        return head.grad

    assert checks.check_accumulated_gradient(naive) is False


def test_every_checker_is_used_and_documented():
    from pathlib import Path
    lessons = "".join(p.read_text() for p in
                      (Path(__file__).parents[1] / "notebooks").glob("[0-9]*.py"))
    for name, check in CHECKERS.items():
        assert f"checks.{name}(" in lessons and "Exercise" in inspect.getdoc(check)
