"""bsr_lite: Bradley-Terry reward models and batch-wise sum-to-zero regularization (BSR).

The core, file by file:
- losses, dispersion, metrics, rloo, gold: the formulas, each with its equation;
- sources, conversations, data: files to rows, rows to pairs and ranking sets;
- scenarios, tokenization, batching: pairs to validation sets, to tokens, to packed rows;
- models, policy, pretrained, embedded, saving: networks, how they are loaded, changed, kept;
- train_rm, step, eval_rm: the reward-model loop, what a step computes, scores;
- train_rloo, generate, scorers: the RLOO loop, sampling, rewards and gold of answers;
- config, runlog, checkpoint, distributed, machine, errors, plots: what every run needs.
The wings studies, scale and course import the core and not each other; the course may use studies.

A training step in reading order: `train_rm` draws a batch, `batching` packs it, `models` computes
rewards, `step` takes the loss of the whole batch (`config.objective()` of `losses`) and its
gradient, `distributed` sums over processes. A step of RLOO: `train_rloo`, answers by `generate`,
rewards by `scorers` and `eval_rm`, log-probabilities by `policy`, the loss in `rloo`.
"""

__version__ = "0.2.0"
