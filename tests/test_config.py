from pathlib import Path

import pytest
import yaml

from bsr_lite.config import RewardModelConfig, load_config, parse, to_dict
from bsr_lite.errors import ConfigError
from bsr_lite.studies.reward_models import StudyConfig

CONFIGS = Path(__file__).parents[1] / "bsr_lite" / "configs"
FAST = CONFIGS / "rm_fast.yaml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("rm_*.yaml")), ids=lambda p: p.name)
def test_every_reward_model_config_parses_and_survives_a_round_trip(path):
    config = load_config(path)
    again = parse(yaml.safe_load(yaml.safe_dump(to_dict(config))), RewardModelConfig, "again")
    assert again == config


STUDIES = [p for p in sorted(CONFIGS.glob("study_*.yaml")) if "rloo" not in p.name]


@pytest.mark.parametrize("path", STUDIES, ids=lambda p: p.name)
def test_every_study_config_parses_with_all_its_runs(path):
    from bsr_lite.studies.reward_models import run_configs
    study = load_config(path, StudyConfig)
    runs = run_configs(study, path)
    assert len(runs) == len(study.methods) * len(study.seeds)
    assert len({config.output_dir for config in runs.values()}) == len(runs)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("study_rloo*.yaml")), ids=lambda p: p.name)
def test_every_rloo_study_parses_with_all_its_runs(path):
    from bsr_lite.studies.rloo import RLOOStudyConfig, run_configs
    study = load_config(path, RLOOStudyConfig)
    runs = run_configs(study, path)
    assert len(runs) == len(study.methods) * sum(map(len, study.seeds.values()))


def test_bt_and_bsr_configs_differ_in_the_objective_alone():
    bt, bsr = (to_dict(load_config(CONFIGS / f"rm_qlora_fast_{loss}.yaml"))
               for loss in ("bt", "bsr"))
    assert {k for k in bt if bt[k] != bsr[k]} == {"output_dir", "loss", "bsr_lambda"}
    assert bsr["bsr_lambda"] == 1e-3 and bt["model"]["quantization"] == "nf4"


def test_set_switches_to_bsr_with_the_papers_lambda():
    config = load_config(FAST, overrides=["loss=bsr", "model.depth=2", "learning_rate=1e-3"])
    assert (config.loss, config.bsr_lambda, config.model.depth) == ("bsr", 1e-3, 2)
    assert config.learning_rate == 1e-3  # YAML 1.1 reads 1e-3 as text


@pytest.mark.parametrize(("override", "message"), [
    ("learning_rat=1", "unknown key 'learning_rat'; did you mean 'learning_rate'"),
    ("model.dept=1", "did you mean 'depth'"),
    ("batch_size=many", "batch_size must be a valid integer, got 'many'"),
    ("batch_size=true", "batch_size must be a valid integer, got True"),
    ("batch_size=2.5", "batch_size must be a valid integer, got 2.5"),
    ("watch=[out_domain]", "watch.0 must be 'in_domain', .* or 'train', got 'out_domain'"),
    ("epochs=0", "epochs must be greater than or equal to 1, got 0"),
    ("loss=bpr", "loss must be 'bt', 'hinge', .* or 'level', got 'bpr'"),
    ("bsr_lambda=0.1", "bsr_lambda has no effect on loss 'bt'"),
    ("data.valid_models=gemma", "data.valid_models must be a list, got 'gemma'"),
    ("token_budget=100", "token_budget 100 is below data.max_length"),
    ("model.dtype=int8", "model.dtype must be 'auto', 'bfloat16', .* or 'float32', got 'int8'"),
    ("optimizer=sgd", "optimizer must be 'adamw' or 'paged_adamw_8bit', got 'sgd'"),
    ("model.lora_rank=null model.quantization=nf4", "4-bit weights cannot be trained"),
    ("model.quantization=int8", "model.quantization must be 'nf4', got 'int8'"),
    ("model.lora_rank=0", "model.lora_rank must be greater than or equal to 1, got 0"),
    ("data.max_pairs=0", "data.max_pairs must be greater than or equal to 1, got 0"),
    ("data.label_temperature=-0.5", "label_temperature must be greater .* to 0, got -0.5"),
    ("data.dev_share=.nan", "data.dev_share must be less than or equal to 0.5, got nan"),
    ("max_grad_norm=0", "max_grad_norm must be greater than 0, got 0"),
    ("learning_rate=.nan", "learning_rate must be a finite number, got nan"),
    ("head_learning_rate=-1", "head_learning_rate must be greater than 0, got -1"),
    ("batch_size=0", "batch_size must be greater than or equal to 1, got 0"),
    ("data={a", "'{a' is no YAML value"),
    ("model=5", "model must be a section of keys, got 5"),
    ("seed.x=5", "seed must be a valid integer, got {'x': 5}"),
    ("lr", "write key=value"),
    ("warmup_ratio=1.5", "warmup_ratio must be less than or equal to 0.99, got 1.5"),
])
def test_wrong_values_fail_before_anything_is_loaded(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(FAST, overrides=override.split())


def test_groups_must_divide_the_batch():
    with pytest.raises(ConfigError, match="not a multiple of bsr_group_size 12"):
        load_config(FAST, overrides=["loss=bsr", "bsr_group_size=12"])
    with pytest.raises(ConfigError, match="bsr_group_size must be greater .* to 1, got -1"):
        load_config(FAST, overrides=["loss=bsr", "bsr_group_size=-1"])


def test_unreadable_and_incomplete_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("- a list")
    with pytest.raises(ConfigError, match="must hold"):
        load_config(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_bytes(b"\xff\xfe: 1")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "c.yaml")
    (tmp_path / "b.yaml").write_text("output_dir: x\n")
    with pytest.raises(ConfigError, match="missing model; missing data"):
        load_config(tmp_path / "b.yaml")
