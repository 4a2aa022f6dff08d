"""A run's metrics in TensorBoard, W&B or any other tracker of accelerate, beside metrics.jsonl."""

from .config import ConfigError, RewardModelConfig, to_dict
from .runlog import flat


def check_tracker(name: str | None) -> None:
    """Raises: ConfigError for a tracker that accelerate does not know, or without its package."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType
    if name is not None and name not in LOGGER_TYPE_TO_CLASS:
        raise ConfigError(f"report_to {name}: accelerate has no tracker of this name; choose from "
                          f"{', '.join(LOGGER_TYPE_TO_CLASS)}, or null")
    if name in LoggerType.list() and name not in map(str, get_available_trackers()):
        raise ConfigError(f"report_to {name}: its package is not installed (pip install {name}); "
                          "metrics.jsonl is written without it")


def open_tracker(config: RewardModelConfig):
    """accelerate's tracker `report_to`, started with the run's config; None where it is null."""
    if config.report_to is None:
        return None
    from accelerate import Accelerator
    check_tracker(config.report_to)
    accelerator = Accelerator(log_with=config.report_to, project_dir=config.output_dir)
    accelerator.init_trackers("bsr_lite", {
        k: v if isinstance(v, int | float | str) else str(v)
        for k, v in flat(to_dict(config)).items()})
    return accelerator.trackers[0]
