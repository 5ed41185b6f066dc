"""Who waits on while the database is silent; `test_cluster_silence.py` has a server that is."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from usage.database.deadline import Circuit, CircuitOpen

THREADS = 4


@pytest.mark.parametrize(
    ("waiting", "leaving"), [(2, 0), (3, 1), (4, 2)], ids=lambda number: f"{number}"
)
def test_half_of_the_threads_wait_on_once_it_is_open(waiting: int, leaving: int) -> None:
    circuit = Circuit(threads=THREADS)
    all_wait = Barrier(waiting)

    def call(_: int) -> tuple[bool, bool]:
        circuit.begins()
        all_wait.wait()
        leaves_closed = circuit.leaves()
        if all_wait.wait() == 0:
            circuit.is_slow(commit=False)
        all_wait.wait()
        return leaves_closed, circuit.leaves()

    with ThreadPoolExecutor(waiting) as threads:
        answers = list(threads.map(call, range(waiting)))

    assert sum(closed for closed, _ in answers) == 0
    assert sum(is_open for _, is_open in answers) == leaving


def test_what_begins_in_a_request_that_was_let_in_before_is_refused_once_it_is_open() -> None:
    circuit = Circuit(threads=THREADS)
    circuit.check()

    circuit.is_slow(commit=False)

    with pytest.raises(CircuitOpen):
        circuit.check()
    with circuit.attempt():
        circuit.check()
