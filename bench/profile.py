"""Shows where the time of an update goes, but for the server: the costliest functions.

cProfile makes Python's functions look dearer than those of C, such as SQLite's.
"""

import cProfile
import pstats
import tempfile
from pathlib import Path
from shutil import copy

from bench.__main__ import app_on, time_of, updates
from bench.contacts import database
from bench.measuring import CACHE


def main(count: int = 5000):
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as directory:
        app = app_on(Path(copy(database(1000), directory)), "NORMAL")
        time_of(app, updates(1000, count))
        profiler = cProfile.Profile()
        profiler.runcall(time_of, app, updates(1000, count))
        app.extensions["store"].close()
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(15)


if __name__ == "__main__":
    main()
