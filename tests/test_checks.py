"""The exercise checkers accept right answers (the solutions, in CI), and only those."""

import inspect
import statistics
from itertools import combinations

import pytest
import torch

from bsr_lite.course import checks, checks_clinic, checks_policy

CHECKERS = {n: f for module in (checks, checks_clinic, checks_policy)
            for n, f in vars(module).items() if n.startswith("check_")}


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


def test_a_misread_row_may_show_the_right_token(capsys):
    def of_tokens(ids, mask, config_pad):
        places, rows = torch.arange(ids.shape[1]), torch.arange(len(ids))
        read, last = ((kept * places).amax(1) for kept in (ids != config_pad, mask))
        return (ids[rows, read] != ids[rows, last]).sum()

    assert checks_clinic.check_misread(of_tokens) is False
    assert "expected 2, got 0" in capsys.readouterr().out


def one_graph(rewards, parts, head):
    return [torch.cat([rewards(side, head) for side in column])
            for column in zip(*parts, strict=True)]


def no_calls(rewards, parts, head):
    return [torch.tanh(torch.cat(column)) @ head for column in zip(*parts, strict=True)]


@pytest.mark.parametrize(("way", "complaint"), [(one_graph, "alive at once"),
                                                (no_calls, "did not come from calls")])
def test_the_accumulation_checker_sees_how_a_right_value_was_reached(way, complaint, capsys):
    def cheat(rewards, parts, head, bsr_lambda):
        head = head.clone().requires_grad_()
        chosen, rejected = way(rewards, parts, head)
        (checks.bt_loss(chosen, rejected)
         + bsr_lambda * checks.bsr_penalty(chosen, rejected)).backward()
        return head.grad

    assert checks.check_accumulated_gradient(cheat) is False
    printed = capsys.readouterr().out
    assert "The value is right, but " in printed and complaint in printed


@pytest.mark.parametrize("added", [
    lambda gained, ended, worth: gained[0] - gained[1],  # endings left in
    lambda gained, ended, worth: gained[0] - gained[1] - worth * (ended[0] - 0.4),  # out of one
    lambda gained, ended, worth: gained[0] - worth * (ended[0] - 0.4)],  # above the reference
    ids=["with endings", "one side", "no control"])
def test_what_the_reward_added_is_counted_from_the_control_without_endings(added):
    def parts(gained, ended, before, worth):
        ending = worth * (ended - before)
        return torch.stack([gained[1] - ending[1], added(gained, ended, worth), ending[0]])

    assert checks_policy.check_three_parts(parts) is False
    assert checks_policy.check_three_parts(lambda g, e, b, w: parts(g, e, b, w).index_copy(
        0, torch.tensor([1]), (g[0] - g[1] - w * (e[0] - e[1]))[None]))


@pytest.mark.parametrize("hole", [
    lambda p, c, r: (slice(p + r, None), slice(p, p + r)),  # lengths swapped
    lambda p, c, r: (slice(p + c, None), slice(1, p + c)),  # a prompt of one token
    lambda p, c, r: (slice(0), slice(0))], ids=["swapped", "prompt", "none"])
def test_a_mask_that_is_right_for_equal_answers_alone_is_wrong(hole):
    def masked(p, c, r):
        mask = torch.ones(p + c + r, p + c + r, dtype=torch.bool).tril()
        mask[hole(p, c, r)] = False
        return mask

    assert checks_policy.check_may_attend(masked) is False


@pytest.mark.parametrize("shortcut", [
    lambda loss, norm, n: {0.5: 2, 2: 3, 1: 0}.get(round(norm, 3), 1),  # the norm alone
    lambda loss, norm, n: 1 if abs(loss - 1) > 1e-4 else 0 if abs(norm - 1) < 1e-4 else
    2 if norm < 1 else 3], ids=["norm", "no ranks"])
def test_a_diagnosis_that_leaves_out_a_number_is_wrong(shortcut):
    assert checks_policy.check_bug(shortcut) is False


@pytest.mark.parametrize("shortcut", [
    lambda changes, runs: (changes > 0).double().mean() ** runs,
    lambda changes, runs: statistics.mean(sum(c) > 0 for c in combinations(changes, runs))],
    ids=["drawn again", "mean"])
def test_a_report_needs_a_rise_in_every_one_of_different_runs(shortcut):
    assert checks.check_reported(shortcut) is False


@pytest.mark.parametrize("flaw", ["none", "graph", "padding", "length", "left out", "batch"])
def test_a_loss_is_judged_by_its_gradient(flaw):
    def loss(reward, logp, ref, mask, beta):
        logp, ref = (v * (1 if flaw == "padding" else mask) for v in (logp, ref))
        R = reward - beta * ((logp if flaw == "graph" else logp.detach()) - ref).sum(2)
        A = R - (R.mean() if flaw == "batch" else R.mean(1, keepdim=True))
        A = A / (1 - 1 / R.shape[1]) if flaw == "left out" else A
        return -(A * logp.sum(2) / (mask.sum(2) + 1 if flaw == "length" else 1)).mean()

    assert checks_policy.check_token_loss(loss) is (flaw == "none")


def test_one_call_for_both_sides_of_a_part_and_graphs_freed_at_once_are_fine():
    def joint(rewards, parts, head, bsr_lambda):
        head, sizes = head.clone().requires_grad_(), [len(w) for w, _ in parts]
        r = [rewards(torch.cat(part), head).view(2, -1).detach() for part in parts]
        r = torch.cat(r, dim=1).requires_grad_()
        loss = checks.bt_loss(r[0], r[1]) + bsr_lambda * checks.bsr_penalty(r[0], r[1])
        (push,) = torch.autograd.grad(loss, r)
        for part, p in zip(parts, push.split(sizes, dim=1), strict=True):
            (rewards(torch.cat(part), head).view(2, -1) * p).sum().backward()
        return head.grad

    assert checks.check_accumulated_gradient(joint)


@pytest.mark.parametrize("wrong", [
    {"a": (0.1, 0.1, -1)}, {"a": (0.1, 0.1, 0)}, {"b": (5, -5, 0)}, {"b": (0.1, 0.1, 0)}],
    ids=["control falls, too", "convicted", "not paired", "a fall is shown"])
def test_invented_changes_need_two_verdicts_and_a_difference_that_disagree(wrong):
    luck = torch.tensor([1.0, -1.0] * 4)

    def invented(on, off, mean):  # how widely the seeds scatter; the control's mean
        return on * luck - 1, off * luck + mean

    right = {"a": (0.1, 9, -1), "b": (5, 5, 0)}
    assert checks_policy.check_invented(lambda case: invented(*right[case]))
    assert checks_policy.check_invented(lambda case: invented(*(right | wrong)[case])) is False


def test_a_share_cut_at_zero_is_wrong(capsys):
    def cut(means, variances, group):
        return (1 - variances.sum() / (group * means.square().sum())).clamp(min=0)

    assert checks.check_level_share(cut) is False
    assert "got 0" in capsys.readouterr().out


@pytest.mark.parametrize("change", [
    lambda r, s: (s - r).abs().max(), lambda r, s: (s - r).max() - (s - r).min(),
    lambda r, s: ((s - s[:, :1]) - (r - r[:, :1])).abs().max(),
    lambda r, s: (s.argsort(1) != r.argsort(1)).sum()], ids=["rewards", "joint", "first", "orders"])
def test_a_margin_is_of_any_two_rewards_of_one_prompt(change):
    def pairs(rewards):
        return rewards[:, :, None] - rewards[:, None]

    assert checks.check_margin_change(lambda r, s: (pairs(s) - pairs(r)).abs().max())
    assert checks.check_margin_change(change) is False


@pytest.mark.parametrize("choose", [
    lambda bits, error: min(bits), lambda bits, error: min(error, key=error.get),
    lambda bits, error: 64], ids=["the smallest", "no budget", "the usual"])
def test_the_best_block_is_measured_within_the_budget(choose):
    def by(choose):
        def best(weight, values, budget):
            def error(block):
                blocks = weight.reshape(-1, block) / weight.reshape(-1, block).abs().amax(1, True)
                nearest = values[(blocks[..., None] - values).abs().argmin(-1)] - blocks
                return (nearest * weight.reshape(-1, block).abs().amax(1, True)).std().item()
            bits = {b: 4 + 8 / b + 32 / 256 / b for b in (32, 64, 128)}
            allowed = {b: x for b, x in bits.items() if x <= budget}
            return choose(allowed, {b: error(b) for b in bits})
        return best

    assert checks.check_best_block(by(lambda bits, error: min(bits, key=error.get)))
    assert checks.check_best_block(by(choose)) is False


def test_a_naive_accumulation_is_wrong(capsys):
    def naive(rewards, parts, head, bsr_lambda):
        head = head.clone().requires_grad_()
        for chosen, rejected in parts:
            r_w, r_l = rewards(chosen, head), rewards(rejected, head)
            share = len(chosen) / 10
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


def test_code_that_raises_and_odd_types_get_a_hint_too(capsys):
    assert checks.check_comparisons_needed(lambda *a: 1 / 0) is False
    assert "raised ZeroDivisionError" in capsys.readouterr().out
    assert checks.check_comparisons_needed(lambda *a: "three") is False
    assert "Return a number or a tensor, got str" in capsys.readouterr().out
