"""List the commands: python -m bsr_lite"""

COMMANDS = {
    "train_rm": "train a Bradley-Terry or BSR reward model from a YAML",
    "train_rloo": "train a policy against a reward model by RLOO",
    "studies.reward_models": "compare methods over seeds on the four scenarios",
    "studies.frozen": "compare objectives over many seeds on frozen features",
    "studies.best_of_n": "rank samples of a policy by reward models, gold of what they pick",
    "studies.rloo": "train policies against the reward models of a study, judged by gold",
    "studies.evaluate": "score a reward model on pairs, ranking sets and public benchmarks",
    "scale.merge": "write a LoRA or QLoRA model as one plain transformers folder",
    "scale.estimate": "memory of a run, part by part, before it is started",
    "scale.dry_run": "memory on many GPUs, operations, time and cost of a run",
}

if __name__ == "__main__":
    print("bsr_lite: robust reward models. Commands (each with --help):\n")
    for name, text in COMMANDS.items():
        print(f"  python -m bsr_lite.{name:<22} {text}")
