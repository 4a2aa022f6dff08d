"""A micro-batch as large as memory allows, by the estimate that other tests hold to account."""

import dataclasses

import pytest

from bsr_lite.config import ConfigError, DataConfig, ModelConfig, RewardModelConfig
from bsr_lite.estimate import estimate
from bsr_lite.token_budget import available_memory, fit_token_budget


@pytest.fixture
def config(tiny_path):
    return RewardModelConfig(ModelConfig(tiny_path, lora_rank=4), DataConfig("x", max_length=64),
                             "out", batch_size=64)


def test_the_budget_fits_and_twice_the_budget_does_not(config):
    for available in (6e6, 12e6):
        budget = fit_token_budget(config, available)
        assert budget in [128 * 2**i for i in range(6)]
        totals = [estimate(dataclasses.replace(config, token_budget=b))["total"]
                  for b in (budget, 2 * budget)]
        assert totals[0] <= available < totals[1] * 1.05  # the straight line is a little off


def test_it_is_at_most_a_batch_and_at_least_a_pair(config):
    assert fit_token_budget(config, 1e12) == 2 * 64 * 64
    with pytest.raises(ConfigError, match="one pair of data.max_length 64 takes .*: lower it, "):
        fit_token_budget(config, 1e5)


def test_weights_that_are_cut_over_gpus_leave_room(config):
    full = dataclasses.replace(config, model=ModelConfig(config.model.name))
    least = estimate(full)["total"]
    with pytest.raises(ConfigError):
        fit_token_budget(full, least * 0.9)
    assert fit_token_budget(full, least * 0.9, shards=8) >= 128


def test_memory_is_shared_by_the_processes_of_a_machine(monkeypatch):
    alone = available_memory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 1e8 < available_memory() < alone / 2
