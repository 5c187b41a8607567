"""The thread of commits: in turn, to the end, and never ended by what it does."""

from __future__ import annotations

import threading
import time

import pytest

from gateway.store.commit_thread import CommitThread


def test_work_is_done_in_turn_in_one_other_thread() -> None:
    """In the order in which it was handed in, however long each piece takes."""
    thread, seen = CommitThread(), list[tuple[int, str]]()

    def note(number: int) -> None:
        time.sleep(0.002 * (number == 0))
        seen.append((number, threading.current_thread().name))

    for number in range(20):
        thread.do(lambda number=number: note(number))  # type: ignore[misc]
    thread.close()
    assert seen == [(number, "store-commit") for number in range(20)]


def test_closing_waits_for_what_was_handed_in() -> None:
    """A commit under way is not left to itself; nothing is taken afterwards."""
    thread, begin, done = CommitThread(), threading.Event(), list[str]()

    def wait() -> None:
        begin.wait(10)
        done.append("first")

    thread.do(wait)
    thread.do(lambda: done.append("second"))
    threading.Timer(0.02, begin.set).start()
    thread.close()
    assert done == ["first", "second"]
    with pytest.raises(RuntimeError, match="has ended"):
        thread.do(lambda: done.append("third"))
    thread.close()
    assert done == ["first", "second"]


def test_one_that_never_worked_is_closed() -> None:
    """A store that was never opened has no thread to wait for."""
    before = threading.active_count()
    CommitThread().close()
    assert threading.active_count() == before


def test_an_error_does_not_end_the_thread() -> None:
    """Also none that is no Exception: the commits that follow would never be made."""
    thread, done = CommitThread(), list[str]()

    def fail() -> None:
        raise SystemExit

    thread.do(fail)
    thread.do(lambda: done.append("after"))
    thread.close()
    assert done == ["after"]


def test_a_thread_that_cannot_be_started_is_started_by_the_next_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise its work would wait for ever, and the store could not be closed."""
    thread, done = CommitThread(), list[str]()

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start"):
            thread.do(lambda: done.append("first"))
    thread.do(lambda: done.append("second"))
    thread.close()
    assert done == ["second"]


def test_what_was_done_is_kept_no_longer() -> None:
    """The changes of a group would stay in memory until the next one."""
    thread, gone, kept = CommitThread(), threading.Event(), threading.Event()

    class Work:
        def __call__(self) -> None:
            kept.set()

        def __del__(self) -> None:
            gone.set()

    thread.do(Work())
    assert kept.wait(10)
    assert gone.wait(10)
    thread.close()
