"""bsr_lite: robust reward models. Commands (each with --help):

  python -m bsr_lite.train_rm               train a Bradley-Terry or BSR reward model from a YAML
  python -m bsr_lite.train_rloo             train a policy against a reward model by RLOO
  python -m bsr_lite.studies.reward_models  compare methods over seeds on the four scenarios
  python -m bsr_lite.studies.worlds         where BSR helps, where it costs and why, in small worlds
  python -m bsr_lite.studies.linear         foretell what a penalty does, against exact linear fits
  python -m bsr_lite.studies.best_of_n      rank samples by reward models, gold of what they pick
  python -m bsr_lite.studies.rloo           policies against the reward models of a study, by gold
  python -m bsr_lite.studies.evaluate       score a reward model on pairs, ranking sets, benchmarks
  python -m bsr_lite.course.doctor          what looks wrong with a reward model, a line a check
  python -m bsr_lite.scale.merge            write LoRA or QLoRA adapters as one plain model
  python -m bsr_lite.scale.estimate         memory of a run, part by part, before it is started
  python -m bsr_lite.scale.dry_run          memory on many GPUs, operations, time and cost of a run
"""

if __name__ == "__main__":
    print(__doc__, end="")
