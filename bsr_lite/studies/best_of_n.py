"""Best-of-n: what a proxy reward picks among n samples of a policy, and what gold says of it:
python -m bsr_lite.studies.best_of_n --config bsr_lite/configs/best_of_n.yaml

The proxies are the models that a study saved. Samples and scores are kept as they come, so a
killed run goes on where it stopped.
"""

import json
from pathlib import Path

import numpy as np

from ..config import Count, Folder, Seed, Several, load_config, section
from ..embedded import EMBEDDED
from ..errors import ConfigError, run
from ..generate import roll_out
from ..gold import WORD
from ..models import load_reward_model
from ..policy import load_policy
from ..runlog import fingerprint, phase, read_lines, write_atomic
from ..saving import weights_fingerprint
from ..scorers import gold_scorer, read_prompts, reward_scorer
from . import records
from . import statistics as stats
from .tables import shown, table


@section
class BestOfNConfig:
    """Samples of one policy on prompts of the pocket world, and the proxies that rank them."""

    proxies: str  # folder of a study's runs: <method>-seed<n>/model
    methods: records.Names  # of that study; the others are compared to the first
    output_dir: Folder
    policy: str = EMBEDDED
    data: str = "data/pocket/pocket.jsonl.gz"
    split: str = "valid"
    prompts: Several = 112
    num_samples: Several = 64
    max_new_tokens: Count = 64
    token_budget: Count = 4096  # of scoring
    seed: Seed = 0


def draw_prompts(config: BestOfNConfig) -> list[dict]:
    rows = read_prompts(config.data, config.split, pocket=True, least=config.prompts)
    return records.drawn(rows, config.prompts, config.seed)


def draw_samples(config: BestOfNConfig, rows: list[dict], folder: Path) -> list[dict]:
    """{"prompt", "responses", "gold", "finished"} of each prompt, N samples each, kept in
    samples.jsonl as they come; every prompt has a random stream of its own."""
    path = folder / "samples.jsonl"
    done = read_lines(path)
    policy = load_policy(config.policy) if len(done) < len(rows) else None
    for index, row in enumerate(rows[len(done):], len(done)):
        (found,) = roll_out(policy, [row], config.num_samples, config.max_new_tokens,
                            config.seed * 1_000_003 + index)
        done.append({"prompt": row["prompt"], "responses": found["texts"],
                     "finished": found["finished"], "gold": gold_scorer([found])[0]})
        write_atomic(path, "".join(json.dumps(sample) + "\n" for sample in done))
    return done


def find_proxies(config: BestOfNConfig) -> dict[str, Path]:
    """{<method>-seed<n>: its run's folder}.  Raises: ConfigError when methods differ in seeds, or
    have fewer than the three that an interval needs."""
    root = Path(config.proxies)
    trained = [records.method_and_seed(path.parent.name) for path in root.glob("*-seed*/model")]
    seeds = {method: sorted(n for own, n in trained if own == method) for method in config.methods}
    first, *others = seeds.values()
    if len(first) < 3 or any(own != first for own in others):
        raise ConfigError(f"{config.proxies} holds trained models <method>-seed<n>/model of the "
                          f"seeds {seeds}: each method needs the same ones, at least three; run "
                          "the study that makes them first")
    return {f"{method}-seed{n}": root / f"{method}-seed{n}" for method in seeds for n in first}


def collect(config: BestOfNConfig) -> dict[str, np.ndarray]:
    """gold, words and one array per proxy `<method>-seed<n>`, (P, N) each, as they are kept in
    scores.npz; samples and scores already there are not made again."""
    out, folders, rows = Path(config.output_dir), find_proxies(config), draw_prompts(config)
    settings = [config.policy, config.num_samples, config.max_new_tokens, config.seed, rows]
    work = out / f"samples-{fingerprint(settings)[:8]}"
    with phase("samples"):
        samples = draw_samples(config, rows, work)
    scores = {"gold": np.array([s["gold"] for s in samples]),
              "words": np.array([[len(WORD.findall(r)) for r in s["responses"]] for s in samples])}
    for name, folder in folders.items():
        saved = work / f"{name}-{weights_fingerprint(folder / 'model')[:8]}.json"
        if not saved.exists():
            with phase(name):
                model = load_reward_model(str(folder / "model"), for_scoring=True)
                score = reward_scorer(model, config.token_budget)
                rewards = score([{"row": s, "texts": s["responses"]} for s in samples])
                write_atomic(saved, json.dumps(rewards))
                del model, score
                records.release_memory()
        scores[name] = np.array(json.loads(saved.read_text()))  # (P, N)
    scores = {name: values.round(3).astype(np.float32) for name, values in scores.items()}
    np.savez_compressed(out / "scores.npz", **scores)
    return scores


def noisy_gold(gold: np.ndarray, correlation: float, seeds: int) -> dict[str, list[np.ndarray]]:
    """Proxies whose fault is known: gold plus normal noise, such that the two correlate so much
    within a prompt, and plus heavy-tailed noise (Student's t, two degrees of freedom) of the same
    quartiles.  Shapes: (P, N) -> (P, N) each."""
    sd = stats.within_sd(gold) * np.sqrt(1 / np.clip(correlation, 0.01, 1) ** 2 - 1)
    draws = [np.random.default_rng((2, seed)) for seed in range(seeds)]
    return {"normal noise": [gold + sd * d.standard_normal(gold.shape) for d in draws],
            "heavy-tailed noise": [gold + sd * 0.826 * d.standard_t(2, gold.shape) for d in draws]}


def curves(scores: dict[str, np.ndarray]) -> dict:
    """Per method and n = 1, 2, 4, ...: gold of the pick with its 95% interval over seeds and
    prompts, its paired difference to the first method; `proxy`, the proxy's own reward of it, and
    from n = 2 on `share`, gold's gain over the proxy's, both in standard deviations among a
    prompt's samples; by seed `shares` and within-prompt `correlations`. `noisy_gold` with the first
    method's correlation is there as two more methods, beside them `best` (picked by gold itself)
    and `shortest` (fewest words)."""
    gold, sizes = scores["gold"], [2**i for i in range(int(np.log2(scores["gold"].shape[1])) + 1)]

    def picked(values: np.ndarray, *proxies: np.ndarray) -> np.ndarray:
        return np.array([[stats.best_of_n(proxy, values, n) for proxy in proxies] for n in sizes])

    best, shortest = picked(gold, gold, -scores["words"]).mean(2).T.tolist()
    summary: dict = {"n": sizes, "kl_bound": [stats.best_of_n_kl(n) for n in sizes], "methods": {},
                     "best": best, "shortest": shortest}
    methods = records.by_method({name: values for name, values in scores.items()
                                 if name not in ("gold", "words")})
    trained = next(iter(methods.values()))
    agreed = float(np.mean([stats.within_correlation(proxy, gold) for proxy in trained]))
    first = picked(gold, *trained)  # (sizes, seeds, P)
    for method, seeds in (methods | noisy_gold(gold, agreed, len(trained))).items():
        values = picked(gold, *seeds)
        gain = (values - gold.mean(1)) / (stats.within_sd(gold) or 1.0)
        own = np.stack([(picked(p, p)[:, 0] - p.mean(1)) / (stats.within_sd(p) or 1.0)
                        for p in seeds], 1)
        summary["methods"][method] = {
            "gold": [stats.two_way_interval(v)[:3] for v in values],
            "difference": [stats.two_way_interval(v) for v in values - first],
            "seeds": values.mean(2).T.tolist(),
            "proxy": [stats.two_way_interval(v)[:3] for v in own],
            "share": [(None,) * 3, *map(stats.ratio_interval, gain[1:], own[1:])],
            "shares": [[stats.ratio_interval(g[[s]], o[[s]])[0] for g, o in
                        zip(gain[1:], own[1:], strict=True)] for s in range(len(seeds))],
            "correlations": [stats.within_correlation(proxy, gold) for proxy in seeds]}
    return summary


def best_of_n_text(summary: dict, config: BestOfNConfig) -> str:
    """Gold of the pick against n, one row a method."""
    rows = [[method, *(shown(gold) + (f" [{shown(d[:3], '+.3f')}]" if place else "")
                       for gold, d in zip(row["gold"], row["difference"], strict=True))]
            for place, (method, row) in enumerate(summary["methods"].items())]
    rows += [[name, *(f"{v:.3f}" for v in summary[name])] for name in ("shortest", "best")]
    rows.append(["KL to the policy, bound (nats)", *(f"{kl:.2f}" for kl in summary["kl_bound"])])
    shares = [[method, *("-" if s[0] is None else shown(s, ".2f") for s in row["share"]),
               f"{np.mean(row['correlations']):.2f}"] for method, row in summary["methods"].items()]
    sizes = [f"n={n}" for n in summary["n"]]
    return (f"Gold reward of the sample that the proxy picks among n; {config.prompts} prompts, "
            f"{config.num_samples} samples each, unbiased estimator; 95% intervals over seeds and "
            "prompts, in brackets the paired difference to the first method.\n\n"
            + table(["picked by", *sizes], rows) + "\n\nShare kept: gold's gain over the proxy's, "
            "each in standard deviations among a prompt's samples, beside their correlation.\n\n"
            + table(["picked by", *sizes, "correlation"], shares) + "\n")


def run_best_of_n(path: Path, overrides: list[str] = (), resume: bool = False) -> dict:
    """Sample and score what is missing, then write scores.npz, results.json, results.md,
    results.png and env.json; with `resume`, results recorded under data/runs for the same config
    are read back."""
    from .figures import best_of_n_figure
    config = load_config(path, BestOfNConfig, overrides)
    return records.study_without_runs(config, lambda: curves(collect(config)), lambda found:
                                      best_of_n_text(found, config), resume, best_of_n_figure)


def main(argv: list[str] | None = None) -> None:
    records.command("best_of_n", __doc__, "a best-of-n run", run_best_of_n, argv)


if __name__ == "__main__":
    run(main)
