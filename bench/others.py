"""Prints each server's own figures, where `make bench` sets ours against those of the peers."""

import subprocess
from functools import partial
from itertools import islice, product
from statistics import median

import requests

from bench.measuring import Served, conditions, interleaved, memory, request_times, spread, wrk
from bench.servers import STARTS, prepare, running

SESSION, NEW = "one session", "a new connection each"
By = dict[tuple[str, str | int], list[float]]  # by server, and by SESSION or NEW or connections


def measure_requests(servers: dict[str, Served], rounds: int = 9, count: int = 100) -> By:
    """Return the milliseconds that Python's `requests` takes, the median of each round."""

    def time_them(server: Served, how: str) -> float:
        with requests.Session() as session:
            times = request_times(server, session if how == SESSION else None)
            return median(islice(times, count))

    kinds = product(servers, (SESSION, NEW))
    measures = {(name, how): partial(time_them, servers[name], how) for name, how in kinds}
    return interleaved(measures, rounds)


def measure_load(servers: dict[str, Served], rounds: int = 5, seconds: int = 3) -> tuple[By, By]:
    """Return updates a second and their p99 in milliseconds, on one and on 16 connections."""
    kinds = product(servers, (1, 16))
    measures = {(name, c): partial(wrk, servers[name], c, seconds) for name, c in kinds}
    found = interleaved(measures, rounds)
    rates = {kind: [result["rate"] for result in results] for kind, results in found.items()}
    p99s = {kind: [result["p99"] for result in results] for kind, results in found.items()}
    return rates, p99s


def measure_memory(*names: str, rounds: int = 3, seconds: int = 2) -> dict[str, list[float]]:
    """Return each server's memory after some load, while no other shares its pages."""

    def alone(name: str) -> float:
        with running(name) as servers:
            wrk(servers[name], 16, seconds)
            return memory(servers[name].pid)

    return interleaved({name: partial(alone, name) for name in names}, rounds, warm_up=0)


def main():
    prepare()
    with running(*STARTS) as servers:
        times = measure_requests(servers)
        rates, p99s = measure_load(servers)
    memories = measure_memory(*STARTS)
    node = subprocess.check_output(["node", "--version"], text=True).strip()
    print(f"{conditions()} Node {node}.\n")
    print(f"| | `requests`, {SESSION} | {NEW} | updates/s, one connection | 16 | p99, 16 | PSS |")
    print("|---" * 7 + "|")
    for name in STARTS:
        cells = [
            f"{spread(times[name, SESSION])} ms",
            f"{spread(times[name, NEW])} ms",
            spread(rates[name, 1], ",.0f"),
            spread(rates[name, 16], ",.0f"),
            f"{spread(p99s[name, 16], '.1f')} ms",
            f"{spread(memories[name], '.0f')} MB",
        ]
        print("|", " | ".join([name, *cells]), "|")


if __name__ == "__main__":
    main()
