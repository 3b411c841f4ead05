"""The command `qyvo-standin`, which is `python -m qyvo_standin` too."""

import sys
from pathlib import Path


def main():
    """Run the command."""
    # The service's modules import each other by their plain names: they come first here, whatever
    # lies in the current folder, and in no other process.
    sys.path.insert(0, str(Path(__file__).parent))
    from commands import main as run_command

    run_command()


if __name__ == "__main__":
    main()
