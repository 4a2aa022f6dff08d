"""Can it be foretold, before any training, whether a penalty helps? Linear theory against exact
fits of a linear head: python -m bsr_lite.studies.linear --config bsr_lite/configs/linear.yaml

Features are last hidden states of the untrained model. Ours, not the paper's.
"""

from dataclasses import field
from pathlib import Path

import numpy as np

from ..config import SCENARIOS, Folder, Rate, RewardModelConfig, Several, load_config, section
from ..errors import ConfigError, run
from ..metrics import agreement, clustered, t_quantile
from ..runlog import phase
from ..scenarios import load_scenarios
from . import records
from .features import load_features
from .quadratic import family, fit, moments, penalty_matrix
from .shifts import SHIFTED, in_world
from .tables import linear_text

SETS = (*SCENARIOS, "dev_prompt_disjoint", "dev_mutual_disjoint", *SHIFTED)
PENALTIES = ("bsr", "spread", "level", "centering", "l2")


@section
class LinearConfig:
    """Penalties x lambdas x scenarios in every world, each fitted to the training pairs and to many
    bootstrap draws of them, the same for all. Scores are compared to Bradley-Terry's."""

    base: str  # path of a RewardModelConfig YAML, for its model (untrained), data and batch size
    output_dir: Folder
    ridge: Rate  # kappa |w|^2 of every fit: features outnumber what the pairs can tell apart
    lambdas: list[Rate]
    worlds: list[records.World]
    base_set: list[str] = field(default_factory=list)  # key=value overrides of the base
    seeds: Several = 50  # bootstrap draws

    def objectives(self) -> dict[str, tuple[str, float]]:
        return {"bt": ("bt", 0.0)} | {f"{kind}-{weight:g}": (kind, weight)
                                      for kind in PENALTIES for weight in self.lambdas}


# ---- exact fits ----------------------------------------------------------------------------------

def drawn_pairs(pairs: np.ndarray, topics: list | None, seed: int) -> np.ndarray:
    """A bootstrap draw: as many topics as there are, with replacement, and all their pairs; of
    single pairs where no topic is named."""
    rng = np.random.default_rng(seed)
    names, index = np.unique(topics or range(len(pairs)), return_inverse=True)
    chosen = rng.integers(0, len(names), len(names))
    return np.concatenate([pairs[index == name] for name in chosen])


def fitted(features: dict, config: LinearConfig, group: int) -> dict[str, np.ndarray]:
    """{objective: w (1 + S, H)}, fitted to all pairs and to every bootstrap draw of them."""
    pairs = features["train"]["hidden"].double().numpy()  # (n, 2, H)
    ridge = config.ridge * np.eye(pairs.shape[-1])
    found = {name: [] for name in config.objectives()}
    draws = (drawn_pairs(pairs, features["train"]["topics"], seed) for seed in range(config.seeds))
    for drawn in (pairs, *draws):
        delta, known, w = drawn[:, 0] - drawn[:, 1], moments(drawn), 0.0
        for name, objective in config.objectives().items():
            w = fit(delta, ridge + penalty_matrix(family(*objective), *known, group), w)
            found[name].append(w)
    return {name: np.stack(heads) for name, heads in found.items()}


def bootstrap_difference(values: np.ndarray, topics: list | None) -> tuple[float, float, float]:
    """Mean of the first row, that of the fit to all pairs, with a 95% interval over new training
    pairs and new sets: its squared error is the variance of the draws' means, which more draws do
    not shrink, plus that of the sets' mean.  Shapes: (1 + S, P)."""
    values = values if topics is None else clustered(values, topics)
    mean, sets = values[0].mean(), values.shape[1]
    error = np.sqrt(values[1:].mean(1).var(ddof=1) + values[0].var(ddof=1) / sets)
    half = t_quantile(min(len(values) - 2, sets - 1)) * error
    return float(mean), float(mean - half), float(mean + half)


# ---- theory --------------------------------------------------------------------------------------

def difference_moment(x: np.ndarray) -> np.ndarray:
    """Second moment (H, H) of differences between two answers to a prompt.  Shapes: (P, K, H)."""
    centred = x - x.mean(1, keepdims=True)
    return 2 * np.einsum("pki,pkj->ij", centred, centred) / (len(x) * (x.shape[1] - 1))


def gold_direction(x: np.ndarray, gold: np.ndarray) -> tuple[np.ndarray, float]:
    """Ridge regression of gold on hidden states over all answers, between prompts too, so that what
    gold does not depend on gets no weight; its penalty by generalized cross-validation. With it the
    share of degrees of freedom that the fit leaves.  Shapes: (P, K, H), (P, K) -> (H,)."""
    x, y = x.reshape(-1, x.shape[-1]), gold.ravel() - gold.mean()
    left, size, right = np.linalg.svd(x - x.mean(0), full_matrices=False)

    def free(penalty: float) -> float:
        return 1 - (size**2 / (size**2 + penalty)).sum() / len(y)

    def error(penalty: float) -> float:
        rest = y - left @ (size**2 / (size**2 + penalty) * (left.T @ y))
        return (rest**2).mean() / free(penalty) ** 2

    best = min(size[0] ** 2 * np.geomspace(1e-8, 1, 33), key=error)
    return right.T @ (size / (size**2 + best) * (left.T @ y)), free(best)


def predicted(features: dict, config: LinearConfig, group: int, temperature: float) -> dict:
    """{objective: {part: predicted score}}, from hidden states of the untrained model, gold of the
    in-domain answers and the labels' temperature, before any head is fitted to a label.

    Gold's direction w* is that of `gold_direction` over the label temperature. With
    BT's information I = v Sigma_delta, v = mean p(1 - p) of labels, n pairs and M = (I + 2 kappa +
    2 Q)^-1, a penalty w' Q w leaves E[w] = M I w* and noise of covariance M I M / n. On a set whose
    differences have the second moment S, rewards and gold then correlate with rho = E[w]' S w* /
    sqrt((E[w]' S E[w] + tr S M I M / n) (w*' S w* + residual)), tau = 2/pi arcsin rho, as for
    normal variables, accuracy = 1/2 + 1/pi arcsin rho.
    """
    hidden = {name: f["hidden"].double().numpy() for name, f in features.items()}
    gold = features["in_domain"]["gold"].double().numpy() / temperature  # (P, 2)
    target = gold[:, 0] - gold[:, 1]
    v = (1 / (2 + np.exp(target) + np.exp(-target))).mean()  # p (1 - p)
    direction, free = gold_direction(hidden["in_domain"], gold)
    rest = target + np.diff(hidden["in_domain"] @ direction)[:, 0]
    residual = (rest**2).mean() / free**2  # of new answers, as generalized cross-validation has it
    ridge = 2 * config.ridge * np.eye(len(direction))
    known = moments(hidden["train"])
    information, found = v * known[2], {}
    sets = {part: difference_moment(x) for part, x in hidden.items() if part != "train"}
    for name, objective in config.objectives().items():
        q = penalty_matrix(family(*objective), *known, group)
        inverse = np.linalg.inv(information + ridge + 2 * q)
        w = inverse @ information @ direction
        noise = inverse @ information @ inverse / len(hidden["train"])
        found[name] = {}
        for part, s in sets.items():
            rho = w @ s @ direction / np.sqrt((w @ s @ w + np.sum(s * noise))
                                              * (direction @ s @ direction + residual))
            tau = 2 / np.pi * np.arcsin(rho)
            found[name][part] = tau if hidden[part].shape[1] > 2 else 0.5 + tau / 2
    return found


# ---- the study -----------------------------------------------------------------------------------

def compute(config: LinearConfig, base: RewardModelConfig) -> dict:
    """table[world][objective][part]: the score of the fit to all pairs, its paired difference to
    Bradley-Terry with `bootstrap_difference`'s interval, and both as theory predicted them. The
    sets are the four scenarios, dev's, and, where answers are rewritten, the shifted ones."""
    table = {}
    for world in config.worlds:
        scenarios = in_world(load_scenarios(base), world, base.data.seed)
        parts = [p for p in SETS if getattr(scenarios, p, None)]
        features = load_features(Path(config.output_dir) / f"features-{world}.pt", scenarios, parts,
                                 base)
        theory = predicted(features, config, base.batch_size, base.data.label_temperature)
        with phase(f"{world}: fits"):
            heads = fitted(features, config, base.batch_size)
        table[world] = {name: {} for name in heads}
        for part in parts:
            x, gold = features[part]["hidden"].double().numpy(), features[part]["gold"].numpy()
            first = None
            for name, w in heads.items():
                rewards = np.einsum("pkh,sh->spk", x, w)
                score = agreement(rewards, np.broadcast_to(gold, rewards.shape))[1]  # (1 + S, P)
                first = score if first is None else first
                table[world][name][part] = {
                    "score": float(score[0].mean()),
                    "difference": bootstrap_difference(score - first, features[part]["topics"]),
                    "predicted_score": float(theory[name][part]),
                    "predicted": float(theory[name][part] - theory["bt"][part])}
    return table


def run_linear(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """Run the study and write results.json, results.md, results.png and env.json; with `resume`,
    one recorded under data/runs for the same config is read back."""
    from .figures import linear_figure
    config = load_config(path, LinearConfig, overrides)
    base = load_config(path.parent / config.base, overrides=config.base_set)
    if not base.data.label_temperature:
        raise ConfigError(f"{path}: theory needs labels that are drawn: data.label_temperature > 0")
    return records.study_without_runs(config, lambda: compute(config, base), linear_text, resume,
                                      linear_figure, base_config=base)


def main(argv: list[str] | None = None) -> None:
    records.command("linear", __doc__, "a study of linear heads", run_linear, argv)


if __name__ == "__main__":
    run(main)
