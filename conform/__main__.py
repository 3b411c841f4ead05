"""The check without the service: `python -m conform`."""

from conform import command

if __name__ == "__main__":
    command()
