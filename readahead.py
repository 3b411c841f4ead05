"""Reads a file of contacts in another process, while this one writes those that were read."""

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import schemas
import transfer


def batches(path: Path, encoding: str, region: str | None) -> Iterator[transfer.Batch]:
    """The batches of transfer.batches(). Raises what reading the file raises."""
    context = multiprocessing.get_context("spawn")  # fork would copy open databases
    here, there = context.Pipe(duplex=False)
    reader = context.Process(target=_read, args=(path, encoding, region, there), daemon=True)
    heeds = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as the reader will: Ctrl-C is ours
    reader.start()
    signal.signal(signal.SIGINT, heeds)
    there.close()  # or the reader's end would go unnoticed
    try:
        while received := _received(here):
            if isinstance(received, Exception):
                raise received
            yield received
    finally:
        here.close()
        reader.terminate()  # unless it has come to its end
        reader.join()


def _received(here: Connection) -> transfer.Batch | Exception | None:
    try:
        return here.recv()
    except (EOFError, OSError):  # the latter in the middle of a batch
        raise transfer.Unfinished("The process that read the file was stopped.") from None


def _read(path: Path, encoding: str, region: str | None, there: Connection):
    schemas.default_region.set(region)
    try:
        with transfer.opened(path, encoding) as text:
            contacts = transfer.by_ending(path, transfer.READERS)(text)
            for batch in transfer.batches(text, contacts):
                there.send(batch)
        there.send(None)
    except BrokenPipeError:
        pass  # the other process has had enough, or is no more
    except Exception as error:
        there.send(error)
