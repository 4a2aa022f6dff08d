"""Two gloo processes on this machine against one process on the same batches."""

import contextlib
import faulthandler
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import peft
import pytest
import torch
import transformers
import yaml
from conftest import assert_close_in_norm
from torch.distributed.tensor import DTensor

import bsr_lite.distributed
from bsr_lite.batching import count_tokens, micro_batches, pack, share_out
from bsr_lite.checkpoint import Checkpoint
from bsr_lite.config import RewardModelConfig, parse, to_dict
from bsr_lite.distributed import (
    check_agreement,
    clip_gradients,
    is_shard,
    place_model,
    rank,
    refuse_launcher,
    sharded,
    start_processes,
    sum_gradients,
    until_processes_end,
)
from bsr_lite.errors import ConfigError, TrainingError, WriteError
from bsr_lite.eval_rm import group_tokens, score_tokens
from bsr_lite.models import load_reward_model
from bsr_lite.runlog import read_metrics
from bsr_lite.saving import save_reward_model
from bsr_lite.step import backward
from bsr_lite.tokenization import pair_tokens
from bsr_lite.train_rm import train

CONFIGS = Path(__file__).parents[1] / "bsr_lite/configs/accelerate"
MODELS = {  # options of load_reward_model
    "full": {"dtype": "float32"}, "lora": {"dtype": "float32", "lora_rank": 4},
    "bf16": {"dtype": "bfloat16", "gradient_checkpointing": True},
    "bf16 lora": {"dtype": "bfloat16", "lora_rank": 4}, "saved lora": {"name": "saved-lora"},
    "saved full": {"name": "saved-full"}}
KINDS = {"whole": ("full", "lora"), "sharded": tuple(MODELS)}
STEPS = {  # pairs, changes of the config: groups of 3 span the ranks; a rank has none of one pair
    "bt": (5, {"loss": "bt", "token_budget": 128}),
    "bsr": (5, {"loss": "bsr", "bsr_lambda": 0.5, "token_budget": 128}),
    "groups": (6, {"loss": "bsr", "bsr_lambda": 0.5, "bsr_group_size": 3, "token_budget": 128}),
    "spread": (6, {"loss": "spread", "bsr_lambda": 0.5, "bsr_group_size": 3, "token_budget": 128}),
    "level": (5, {"loss": "level", "bsr_lambda": 0.5, "token_budget": 128}),
    "one pass": (6, {"loss": "bsr", "bsr_lambda": 0.5, "bsr_group_size": 3}),
    "dr, one pair": (1, {"loss": "dr"}),
    "bsr, one pair": (1, {"loss": "bsr", "bsr_lambda": 0.5})}


def settings(folder, name, **changes):
    values = {
        "output_dir": str(folder / name), "model": {"name": str(folder / "tiny"), "dtype":
                                                    "float32"},
        "data": {"source": str(folder / "pairs.jsonl"), "format": "trl", "max_length": 128,
                 "dev_share": 0.15}, "loss": "bsr", "bsr_lambda": 0.01, "bsr_group_size": 4,
        "batch_size": 8, "token_budget": 256, "learning_rate": 1e-3, "eval_every": 2, "epochs": 2}
    return parse(values | changes, RewardModelConfig, "test")


# ---- what the processes do -----------------------------------------------------------------------

def step(model, token_groups, config, ranks):
    """Rewards, loss and the whole gradient of one batch, as `train` computes them."""
    lengths = [sum(map(len, token_group)) for token_group in token_groups]
    shortest = lengths.index(min(lengths))
    parts = [(run, pack([token_groups[i] for i in run or [shortest]]))
             for run in share_out(lengths, config.token_budget, ranks)[rank()]]
    model.zero_grad()
    rewards, loss = backward(model, parts, config, pairs=len(token_groups))
    trained = [p for p in model.parameters() if p.requires_grad]
    sum_gradients(trained)
    gradient, norm = whole_gradient(trained), clip_gradients(trained, 1e-3)
    return {"rewards": rewards, "loss": loss, "gradient": gradient, "norm": norm,
            "clipped": whole_gradient(trained)}


def whole_gradient(trained):
    gradients = [p.grad for p in trained]
    return torch.cat([(g.full_tensor() if isinstance(g, DTensor) else g).flatten()
                      for g in gradients])


def load(folder, kind):
    options = {"name": "tiny", "seed": 1} | MODELS[kind]
    return load_reward_model(str(folder / options.pop("name")), **options)


def tensors(model):
    """Parameters, buffers, and tensors that modules hold beside them."""
    beside = (value for module in model.modules() for value in vars(module).values())
    return [*model.parameters(), *model.buffers(), *filter(torch.is_tensor, beside)]


def place(folder, kind):
    """A model on its rank, from a network whose weights rank 0 alone has where it is sharded."""
    model = load(folder, kind)
    empty = sharded() and rank() == 1
    assert {p.is_meta for p in model.parameters()} == {empty}, kind
    place_model(model, torch.device("cpu"))
    assert {is_shard(p) for p in model.backbone.parameters()} == {sharded()}, kind
    assert not any(t.is_meta for t in tensors(model)), kind
    return model


def steps(folder, pairs, kind, ranks):
    model = place(folder, kind)
    token_groups, _ = pair_tokens(pairs, model.tokenizer, 128)
    model.train()
    found = {}
    for name, (size, changes) in STEPS.items():
        plain = {"bsr_lambda": None, "bsr_group_size": None, "batch_size": 6}
        config = settings(folder, "none", **plain | changes)
        found[name] = step(model, token_groups[:size], config, ranks)
    return found


def evaluation(folder, groups):
    """What `score_tokens` finds of many groups and of one, and this rank's tokens in each pass."""
    model, found = place(folder, "full"), []
    model.backbone.register_forward_pre_hook(
        lambda module, args, inputs: passes.append(inputs["input_ids"].numel()), with_kwargs=True)
    for number in (len(groups), 1):
        passes = []
        token_groups = [group_tokens(model.tokenizer, g.prompt, g.responses)
                        for g in groups[:number]]
        scored = score_tokens(model, token_groups, token_budget=400)
        found.append({"scored": scored, "passes": passes,
                      "lengths": [count_tokens(t) for t in token_groups]})
    return found


def refused(*args, **kwargs):
    raise AssertionError("a rank other than 0 reads weights")


@contextlib.contextmanager
def reads_no_weights():
    with pytest.MonkeyPatch.context() as patch:
        for reader in (transformers.PreTrainedModel, peft.PeftModel):
            patch.setattr(reader, "from_pretrained", refused)
        yield


@contextlib.contextmanager
def dies_at(last):
    """Every process of a run ends in its optimizer step number `last`."""
    real, calls = torch.optim.AdamW.step, []

    def step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    torch.optim.AdamW.step = step
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        torch.optim.AdamW.step = real


def work(number, folder, pairs, groups, port):
    """Everything that two processes do, once for all tests; results are left in files."""
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2",
                   "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                   "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    faulthandler.enable(open(folder / f"crash-{number}.txt", "w"))  # noqa: SIM115  stays open
    start_processes()
    (group,) = torch.distributed.distributed_c10d._world.pg_map
    assert group._get_backend(torch.device("cpu")).options._timeout.total_seconds() == 7200
    with until_processes_end():  # without it one rank leaves while the other still talks to it
        all_of_it(number, folder, pairs, groups)
    sys.stderr.flush()
    os._exit(0)  # a library's threads can abort a process that has nothing left to do


def all_of_it(number, folder, pairs, groups):
    with pytest.raises(ConfigError, match="differ in their first step: give all machines"):
        check_agreement(first_step=number, config=0)
    for layout in ("whole", "sharded"):
        os.environ["ACCELERATE_USE_FSDP"] = str(layout == "sharded")
        with reads_no_weights() if (layout, number) == ("sharded", 1) else contextlib.nullcontext():
            for kind in KINDS[layout]:
                torch.save(steps(folder, pairs, kind, 2), folder / f"{layout}-{kind}-{number}.pt")
            torch.save(evaluation(folder, groups), folder / f"{layout}-scores-{number}.pt")
            train(settings(folder, layout))
        broken = settings(folder, f"{layout}-resumed")
        with dies_at(5):
            train(broken)
        if number == 0:
            shutil.copytree(broken.output_dir, folder / f"{layout}-broken")
        train(broken, resume=True)
        train(settings(folder, f"{layout}-from-one"), resume=True)
    for options in ({"dtype": "float16"}, {"lora_rank": 4, "quantization": "nf4"}):
        with pytest.raises(ConfigError, match=r"4-bit weights and float16 are not sharded: set"):
            load_reward_model(str(folder / "tiny"), **options)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_path, pairs, groups):
    """Runs the two processes once; returns the folder of their results."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "tiny").symlink_to(tiny_path)
    for kind in ("full", "lora"):
        model = load(folder, kind)
        with torch.no_grad():
            for p in model.parameters():
                p += 0.01 * p.requires_grad  # adapters that do something
        save_reward_model(model, folder / f"saved-{kind}")
    rows = [{"prompt": p.prompt, "chosen": [{"role": "assistant", "content": p.chosen}],
             "rejected": [{"role": "assistant", "content": p.rejected}]} for p in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(settings(folder, "one"))
    broken = settings(folder, "one-broken")
    with dies_at(5):
        train(broken)
    for layout in KINDS:
        shutil.copytree(broken.output_dir, folder / f"{layout}-from-one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")  # two processes on one GPU are refused
        try:
            torch.multiprocessing.spawn(work, (folder, pairs, groups, port), nprocs=2)
        except torch.multiprocessing.ProcessExitedException as error:
            where = [(folder / f"crash-{i}.txt").read_text()[:3000] for i in (0, 1)]
            raise AssertionError(f"{error}\nrank 0: {where[0]}\nrank 1: {where[1]}") from error
    yield folder
    torch.set_num_threads(threads)


def weights(folder):
    return torch.cat([p.detach().flatten() for p in load_reward_model(str(folder)).parameters()])


def timeless(folder):
    return [{k: v for k, v in row.items() if k[:6] not in ("tokens", "pairs_", "peak_m")}
            for row in read_metrics(folder)]


def rewards_of(folder, pairs):
    model = load_reward_model(str(folder))
    with torch.no_grad():
        return model(pack(pair_tokens(pairs, model.tokenizer, 128)[0]))


# ---- the step ------------------------------------------------------------------------------------

@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("pairs", [1, 2, 5, 33])
def test_shares_are_a_partition_in_equal_numbers_of_runs(pairs, ranks):
    lengths = torch.randint(10, 90, (pairs,), generator=torch.Generator().manual_seed(pairs))
    lengths = lengths.tolist()
    shares = share_out(lengths, 100, ranks)
    assert sorted(i for own in shares for run in own for i in run) == list(range(pairs))
    assert len(shares) == ranks and len({len(own) for own in shares}) == 1
    assert all(sum(lengths[i] for i in run) <= 100 for own in shares for run in own)
    loads = [sum(lengths[i] for run in own for i in run) for own in shares]
    assert max(loads) - min(loads) <= max(lengths)
    if ranks == 1:
        assert shares == [list(micro_batches(lengths, 100))]


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "kind"), [(n, k) for n, kinds in KINDS.items() for k in kinds])
def test_two_processes_compute_the_step_of_one(two, pairs, kind, layout):
    alone = steps(two, pairs, kind, 1)
    first, second = (torch.load(two / f"{layout}-{kind}-{r}.pt") for r in range(2))
    tolerance = 0.01 if kind.startswith("bf16") else 5e-6
    for name, expected in alone.items():
        assert all(torch.equal(first[name][k], second[name][k]) for k in expected), name
        for key, value in expected.items():
            error = (first[name][key] - value).norm() / value.norm()
            assert error < tolerance, (name, key, error)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["whole", "sharded"])
def test_two_processes_share_an_evaluation_and_both_know_all_of_it(two, groups, layout):
    alone = evaluation(two, groups)
    first, second = (torch.load(two / f"{layout}-scores-{r}.pt") for r in range(2))
    for expected, *ours in zip(alone, first, second, strict=True):
        for a, b, c in zip(expected["scored"], *(o["scored"] for o in ours), strict=True):
            assert a.keys() == b.keys() and all(torch.equal(b[name], c[name]) for name in a)
            for name, value in a.items():
                assert_close_in_norm(b[name], value, unit=1.0)
    many, one = zip(alone, first, second, strict=True)
    work, *shares = (sum(e["passes"]) for e in many)
    assert sum(shares) == work == sum(many[0]["lengths"])
    assert max(shares) - min(shares) <= max(many[0]["lengths"])
    # of a single group both compute the pass: under FSDP neither could do it alone
    assert [e["passes"] for e in one] == [one[0]["lengths"]] * 3


# ---- the run -------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize("layout", ["whole", "sharded"])
def test_trained_model_and_log_are_those_of_one_process(two, pairs, layout):
    ours, theirs = (timeless(two / name) for name in (layout, "one"))
    assert [row["step"] for row in ours] == [1, 2, 3, 4, 5, 6]
    for row, expected in zip(ours, theirs, strict=True):
        for key in expected.keys() - {"micro_batches"}:
            assert row[key] == pytest.approx(expected[key], rel=1e-3, abs=1e-4), key
    torch.testing.assert_close(rewards_of(two / layout / "model", pairs),
                               rewards_of(two / "one/model", pairs), atol=1e-3, rtol=1e-3)
    names = [{p.name for p in (two / n / "model").iterdir()} for n in (layout, "one")]
    assert names[0] == names[1]
    facts = [json.loads((two / n / "model/reward_model.json").read_text()) for n in (layout, "one")]
    assert facts[0]["training"]["pairs"] == facts[1]["training"]["pairs"] == 17


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["whole", "sharded"])
def test_resume_in_two_processes_is_bitwise(two, layout):
    assert torch.equal(weights(two / layout / "model"), weights(two / f"{layout}-resumed/model"))
    assert timeless(two / layout) == timeless(two / f"{layout}-resumed")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["whole", "sharded"])
def test_two_processes_go_on_where_one_stopped(two, layout):
    folder = two / f"{layout}-from-one"
    assert [r["step"] for r in read_metrics(folder)] == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(weights(folder / "model"), weights(two / "one/model"),
                               atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["whole", "sharded"])
def test_one_process_goes_on_where_two_stopped(two, layout):
    """The folder has been moved: where a run is kept does not change it."""
    config = settings(two, f"{layout}-broken")
    train(config, resume=True)
    assert [r["step"] for r in read_metrics(config.output_dir)] == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(weights(two / f"{layout}-broken/model"),
                               weights(two / "one/model"), atol=1e-5, rtol=1e-4)


# ---- failures ------------------------------------------------------------------------------------

@pytest.mark.slow
def test_killed_rank_ends_the_run_and_leaves_the_checkpoint_whole(two):
    import psutil
    config = settings(two, "killed", epochs=8)
    (two / "killed.yaml").write_text(yaml.safe_dump(to_dict(config)))
    launcher = subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         CONFIGS / "fsdp2.yaml", "--num_processes", "2", "-m", "bsr_lite.train_rm", "--config",
         two / "killed.yaml"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""})
    deadline = time.time() + 300
    while len(read_metrics(two / "killed")) < 5 and time.time() < deadline:
        time.sleep(0.05)
    (victim,) = [p for p in psutil.Process(launcher.pid).children()
                 if p.environ().get("RANK") == "1"]
    victim.kill()
    killed = time.time()
    _, said = launcher.communicate(timeout=120)
    assert launcher.returncode != 0 and time.time() - killed < 100  # not ten minutes
    assert "rank      : 1" in said and "Launch again with --resume" in said
    done = read_metrics(two / "killed")[-1]["step"]
    assert 5 <= done < 24
    saved = torch.load(two / "killed/checkpoints/last.pt", weights_only=True)
    assert done - 2 <= saved["step"] <= done + 1
    train(config, resume=True)
    assert [r["step"] for r in read_metrics(two / "killed")] == list(range(1, 25))


def checkpoint_of_one_weight(folder, **config):
    weight = torch.nn.Parameter(torch.zeros(3))
    model, optimizer = torch.nn.ParameterDict({"w": weight}), torch.optim.AdamW([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return weight, Checkpoint(folder, model, optimizer, config, "", scaler)


def test_a_file_half_written_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    weight, state = checkpoint_of_one_weight(tmp_path)
    for number in (1, 2, 3):
        weight.grad = torch.ones(3)
        state.optimizer.step()
        if number == 3:
            monkeypatch.setattr(torch, "save", half_saved)
            with pytest.raises(WriteError, match="last.pt cannot be written"):
                state.save(3)
        else:
            saved = weight.detach().clone()
            state.save(number)
    restored, again = checkpoint_of_one_weight(tmp_path)
    assert again.load() == 2 and torch.equal(restored, saved)
    states = [s.optimizer.state_dict()["state"][0] for s in (state, again)]
    assert states[1]["step"] == 2 and states[0]["exp_avg"].shape == states[1]["exp_avg"].shape
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"last.pt"}


def half_saved(content, path):
    path.write_bytes(b"half")
    raise OSError("a disk died")


def test_only_what_can_change_results_must_be_the_same_on_resume(tmp_path):
    same = {"seed": 1, "token_budget": 4096, "output_dir": "here", "report_to": None}
    checkpoint_of_one_weight(tmp_path, **same)[1].save(4)
    free = {"token_budget": 512, "output_dir": "there", "report_to": "tensorboard"}
    assert checkpoint_of_one_weight(tmp_path, **same | free)[1].load() == 4
    with pytest.raises(ConfigError, match="written with another seed: resume with the same config"):
        checkpoint_of_one_weight(tmp_path, **same | free | {"seed": 2})[1].load()


def test_one_norm_over_all_gradients_is_torchs(one_thread):
    """To the last bit, so that recorded runs of one process stay what they are."""
    numbers = torch.Generator().manual_seed(0)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(n, 7)) for n in (1, 33, 1000)] for _ in "ab")
    for a, b in zip(ours, theirs, strict=True):
        a.grad = torch.randn(a.shape, generator=numbers)
        b.grad = a.grad.clone()
    assert torch.equal(clip_gradients(ours, 1.0), torch.nn.utils.clip_grad_norm_(theirs, 1.0))
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True))


def test_a_lost_connection_is_one_clear_line_and_other_errors_are_not(monkeypatch):
    with pytest.raises(RuntimeError, match="gloo"), until_processes_end():
        raise RuntimeError("gloo: one process has no other to lose")
    monkeypatch.setattr(bsr_lite.distributed, "ranks", lambda: 2)
    with pytest.raises(TrainingError, match="Launch again with --resume"), until_processes_end():
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")
    with pytest.raises(RuntimeError, match="shapes"), until_processes_end():
        raise RuntimeError("shapes do not match")


def test_what_does_not_run_in_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="study runs in one process: start it without a launcher"):
        refuse_launcher("study")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=r"not by DeepSpeed: launch it with .*fsdp2\.yaml"):
        start_processes()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_launcher_configs_are_read_by_accelerate(path):
    from accelerate.commands.config.config_args import load_config_from_file
    config = load_config_from_file(str(path))
    assert config.distributed_type.value == {
        "single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[path.stem]
    header = path.read_text().split("compute_environment")[0]
    assert f"--config_file bsr_lite/configs/accelerate/{path.name}" in header and "When:" in header


def test_a_resume_takes_states_that_are_paged(tmp_path):
    """bitsandbytes' paged states live in memory that torch counts as a CPU's, smaller ones on the
    card; torch refuses states on two devices. Here `meta` plays the card."""
    class Paged(torch.optim.Optimizer):
        is_paged = True

        def __init__(self, weights):
            super().__init__(weights, {"lr": 0.1})

        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                places = ("cpu", "meta") if self.is_paged else ("cpu", "cpu")
                self.state[p] = {"step": 0, "quantized": {
                    name: torch.zeros(3, device=place)
                    for name, place in zip(("state1", "absmax1"), places, strict=True)}}

    def run():
        model = torch.nn.Linear(3, 1)
        optimizer = Paged(model.parameters())
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        return Checkpoint(tmp_path, model, optimizer, {"seed": 1}, "", scaler)

    first = run()
    first.optimizer.is_paged = False  # what a save makes of them
    for p in first.model.parameters():
        p.grad = torch.ones_like(p)
    first.optimizer.step()
    first.save(3)
    again = run()
    assert again.load() == 3 and again.optimizer.is_paged
    assert torch.equal(again.model.weight, first.model.weight)
