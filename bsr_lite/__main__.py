"""List the commands: python -m bsr_lite"""

COMMANDS = {
    "best_of_n": "rank samples of a policy by reward models, gold of what they pick",
    "train_rloo": "train a policy against a reward model by RLOO",
    "train_rm": "train a Bradley-Terry or BSR reward model from a YAML",
    "eval_rm": "score pairs or ranking sets with a reward model",
    "bench": "time our training steps beside TRL's",
    "estimate": "memory of a run, part by part, before it is started",
    "frozen": "compare objectives over many seeds on frozen features",
    "generate": "write a policy's answers in AlpacaEval's output format",
    "rloo_study": "train policies against the reward models of a study, judged by gold",
    "merge": "write a LoRA or QLoRA model as one plain transformers folder",
    "study": "compare methods over seeds on the four scenarios",
}

if __name__ == "__main__":
    print("bsr_lite: robust reward models. Commands (each with --help):\n")
    for name, text in COMMANDS.items():
        print(f"  python -m bsr_lite.{name:<10} {text}")
