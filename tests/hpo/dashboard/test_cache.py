from concurrent.futures import ThreadPoolExecutor
from threading import Event

from hpo.dashboard.cache import Cache


def test_a_cache_keeps_those_that_were_asked_for_last():
    cache, made = Cache(2), []

    def ask(key):
        cache.get(key, lambda: made.append(key) or key)

    for key in "abacab":
        ask(key)

    assert made == ["a", "b", "c", "b"]


def test_a_value_that_is_kept_does_not_wait_for_one_that_is_made():
    cache, begun, go_on = Cache(2), Event(), Event()
    cache.get("kept", lambda: 1)

    def slow():
        begun.set()
        assert go_on.wait(10)
        return 2

    with ThreadPoolExecutor(1) as other:
        making = other.submit(cache.get, "made", slow)
        assert begun.wait(10)
        assert cache.get("kept", lambda: 0) == 1
        go_on.set()
        assert making.result() == 2
