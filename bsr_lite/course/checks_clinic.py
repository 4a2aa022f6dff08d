"""Checkers of the exercises of notebook 11, as in `checks`."""

import copy
from collections.abc import Callable

import torch

from .checks import judge, numbers


def patient(number: int, model):
    """A copy of a healthy model, with whatever patient 1, 2, 3 or 4 of notebook 11 suffers from."""
    model = copy.deepcopy(model)
    model.classifier.score.bias = torch.nn.Parameter(torch.tensor([-40.0]), requires_grad=False)
    if number == 2:  # drawn as a new head is, and then saved
        model.head_weight.data.copy_(numbers(11, size := len(model.head_weight)) / size ** 0.5)
    if number == 3:
        model.classifier.config.pad_token_id = model.tokenizer.eos_token_id
    if number == 4:  # nothing closes an answer
        model.tokenizer.chat_template = model.tokenizer.chat_template.replace(
            "'<|im_end|>' + '\n'", "('' if message['role'] == 'assistant' else '<|im_end|>\n')")
    return model


def check_misread(function: Callable) -> bool:
    """Exercise 4 of notebook 11: rows that plain transformers reads at another position than that
    of the chat's last token.

    Hint: of each row the last position whose id is not `config_pad`, and the last one whose mask is
    1: count the rows in which the two differ"""
    right = torch.tensor([[5, 6, 2, 0, 0], [5, 6, 7, 8, 2], [9, 2, 0, 0, 0]])
    left = torch.tensor([[0, 0, 5, 6, 2], [5, 6, 7, 8, 2], [0, 0, 0, 9, 2]])
    cases = [((ids, (ids != 0).long(), pad), count) for ids, pad, count in (
        (right, 0, 0), (right, 7, 2), (right, 2, 3), (left, 0, 0), (left, 7, 0), (left, 2, 3))]
    # the end of turn, 2, pads, too: another position, the same token
    cases.append(((*torch.tensor([[[5, 0, 3], [5, 2, 2], [6, 2, 2]], [[1, 1, 0]] * 3]), 3), 2))
    return judge(check_misread, function, cases)


def check_mean_k1(function: Callable) -> bool:
    """Exercise 3 of notebook 11: the mean of log pi - log ref over words drawn from pi at
    a temperature.

    Hint: the words come from q = softmax(log pi / T), so the mean is sum q (log pi - log ref); at
    T = 1 that is the KL, at other temperatures it is none"""
    draws = [(numbers(s, 5).mul(2).softmax(0), numbers(s + 1, 5).softmax(0), t)
             for s, t in ((0, 1.0), (0, 2.0), (2, 0.5), (2, 3.0))]
    cases = [((pi, ref, t), (pi.log() / t).softmax(0) @ (pi / ref).log()) for pi, ref, t in draws]
    return judge(check_mean_k1, function, cases)


def check_diagnoses(function: Callable) -> bool:
    """Exercise 1 of notebook 11: the section of each of two patients' one fault, 0 if it is well.

    Hint: look is no illness where a level explains it, and a level moves no accuracy. Rewards that
    must agree and differ are an illness, even where each line says ok or look"""
    return judge(check_diagnoses, *_right(function, 0, 3))


def check_more_diagnoses(function: Callable) -> bool:
    """Exercise 5 of notebook 11: the same of two more patients.

    Hint: where rewards differ from training's, ask first whether chats still end as they did. Where
    they agree, but not in batches, ask what is taken for the answer"""
    return judge(check_more_diagnoses, *_right(function, 5, 7))


def _right(function: Callable, *key: int):  # a count, so that a wrong try does not read the answer
    def count(_):
        return (f := function()) and sum(a == b for a, b in zip(f, key, strict=True))
    return count, [(("the number of right diagnoses",), len(key))]
