"""The thread that waits for the disk, so that the event loop need not.

A pool of one thread costs more than this: a future with its condition for each piece of work, and two locks
and a semaphore on the way in. Here a hand-over is one item in a queue, and the way back one wake-up of the
loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from gateway.logs import get_logger

_log = get_logger("store")


class CommitThread:
    """Does work in turn, in one thread. Used from one event loop."""

    def __init__(self) -> None:
        #: what is to be done; None: nothing follows
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def do(self, work: Callable[[], None]) -> None:
        """Have some work done after all that was handed in before. RuntimeError once it is closed.

        The work reports its own outcome. An exception that it raises is logged, and does not end the thread.
        """
        if self._closed:
            raise RuntimeError("the thread of commits has ended")
        if self._thread is None:
            # A daemon: a process that never closes its store can end. Whoever closes it waits.
            thread = threading.Thread(target=self._run, name="store-commit", daemon=True)
            # Kept only once it runs: work for a thread that could not be started would wait for ever.
            thread.start()
            self._thread = thread
        self._work.put(work)

    def close(self) -> None:
        """Wait until all that was handed in is done, and end. May be called twice."""
        self._closed = True
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - the work that follows must be done, too
                _log.error("commit_thread_failed", exc_info=error)
            # Not until the next commit, which may be hours away.
            del work
