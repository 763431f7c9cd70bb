from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from hpo.dashboard.cache import Cache


def test_a_cache_keeps_those_that_were_asked_for_last():
    cache, made = Cache(2), []

    def ask(key):
        cache.get(key, lambda: made.append(key) or key)

    for key in "abacab":
        ask(key)

    assert made == ["a", "b", "c", "b"]


def test_a_value_that_several_threads_ask_for_is_made_once():
    cache, made, together = Cache(2), [], Barrier(4)

    def ask(_):
        together.wait(10)
        return cache.get("a", lambda: made.append("a") or len(made))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == [1] * 4
