"""The GPUs that `estimate` and `dry_run` know, and what a model computes in on each of them."""

import json
from collections import namedtuple
from pathlib import Path

from .. import machine

# memory in 1e9 bytes as published (without what a T4 and an L4 keep for error correction); compute
# capability; dense peak without sparsity in 1e12 operations a second, as published, in the format
# of `dtype: auto`, which is bfloat16, and float16 before capability 8.0, with sums in fp32 (which
# halves GeForce cards); an assumed rent in US dollars an hour: put your own
Card = namedtuple("Card", "memory capability tflops dollars")
CARDS = {name: Card(*numbers) for name, numbers in json.loads(
    Path(__file__).with_name("cards.json").read_text()).items()}
CONTEXT = 600_000_000  # bytes of CUDA itself and of its libraries' workspaces: assumed


def computing(card: str | None, asked: str, saved: bool = False) -> tuple[str, str]:
    """Number format and attention kernel on a card (None: this machine) of a model that asks for a
    format, or was saved in one: what `machine` decides there. On a CPU the kernel is "grouped"."""
    own = tuple(CARDS[card].capability) if card else machine.capability(machine.device())
    if asked == "auto" or (saved and not machine.native(asked, own)):
        asked = machine.choose_dtype(own)
    flash = own and own >= machine.FLASH and asked in machine.HALF
    return asked, "varlen" if flash else "expanded" if own else "grouped"
