"""List the commands: python -m bsr_lite"""

from .cli import COMMANDS

if __name__ == "__main__":
    print("bsr_lite: robust reward models. Commands (each with --help):\n")
    for name, text in COMMANDS.items():
        print(f"  python -m bsr_lite.{name:<10} {text}")
