"""Lets the threads of one process share commits.

Whoever finds nobody at work leads: it takes along every request that waits, commits them together, and wakes their
threads. Requests that arrive meanwhile are the next leader's. There is no thread of its own and nothing to wait for
when there is only one caller, and a call still returns only when its own event is durable.

A thread that is interrupted (Ctrl-C) leaves nothing stuck: while it waits, its request is withdrawn, or goes on
without anybody to hear the answer; while it leads, those that it took along are told that nobody knows.

Measured on SQLite with 2 ms added to each fsync, 32 threads wrote 22 times as much as with a commit each.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar, cast

Request = TypeVar("Request")
Result = TypeVar("Result")


class _Ticket(Generic[Request, Result]):
    """One waiting thread: with a request, or without one when it wants to be alone."""

    __slots__ = ("is_done", "leads", "request", "result", "wake")

    def __init__(self, request: Request | None) -> None:
        self.request = request
        self.result: Result | BaseException | None = None
        self.is_done = False
        self.leads = False
        self.wake = threading.Lock()
        self.wake.acquire()


class GroupCommit(Generic[Request, Result]):
    """Commits requests of many threads in groups, one group at a time.

    Args:
        commit: Commits a group and gives for each request its result or its error; raises only what concerns all.
        interrupted: Makes the error for a request whose leader was interrupted.
        requests_max: The most requests of one group.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Request]], Sequence[Result | Exception]],
        *,
        interrupted: Callable[[Request, BaseException], Exception],
        requests_max: int,
    ) -> None:
        self._commit = commit
        self._interrupted = interrupted
        self._requests_max = requests_max
        self._mutex = threading.Lock()
        self._is_led = False
        self._waiting: deque[_Ticket[Request, Result]] = deque()

    def submit(self, request: Request) -> Result:
        """Commit one request, alone or with others, and give its result or raise its error."""
        ticket = self._queue(request)
        if ticket is None or ticket.leads:
            return self._lead(request)
        if isinstance(ticket.result, BaseException):
            raise ticket.result
        return cast(Result, ticket.result)

    def submit_all(self, requests: Sequence[Request]) -> list[Result | Exception]:
        """Commit requests together, and give for each its result or its error."""
        results: list[Result | Exception] = []
        for start in range(0, len(requests), self._requests_max):
            with self.alone():
                results += self._commit(requests[start : start + self._requests_max])
        return results

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every group waiting while the block runs."""
        self._queue(None)
        try:
            yield
        finally:
            self._hand_over()

    def _queue(self, request: Request | None) -> _Ticket[Request, Result] | None:
        """Take the lead (None), or wait until the request is done or leads."""
        with self._mutex:
            if not self._is_led:
                self._is_led = True
                return None
            ticket: _Ticket[Request, Result] = _Ticket(request)
            self._waiting.append(ticket)
        try:
            ticket.wake.acquire()
        except BaseException:
            self._withdraw(ticket)
            raise
        return ticket

    def _withdraw(self, ticket: _Ticket[Request, Result]) -> None:
        with self._mutex:
            is_waiting = ticket in self._waiting
            if is_waiting:
                self._waiting.remove(ticket)
        if not is_waiting and ticket.leads:
            self._hand_over()

    def _lead(self, request: Request) -> Result:
        followers: list[_Ticket[Request, Result]] = []
        try:
            self._take_along(followers)
            requests = [request, *[cast(Request, follower.request) for follower in followers]]
            results = self._commit(requests)
            for follower, result in zip(followers, results[1:], strict=True):
                follower.result = result
        except BaseException as error:
            for follower in followers:
                is_plain = isinstance(error, Exception)
                follower.result = error if is_plain else self._interrupted(cast(Request, follower.request), error)
            raise
        finally:
            for follower in followers:
                follower.is_done = True
                follower.wake.release()
            self._hand_over()
        mine = results[0]
        if isinstance(mine, Exception):
            raise mine
        return mine

    def _take_along(self, followers: list[_Ticket[Request, Result]]) -> None:
        if self._waiting:
            with self._mutex:
                while (
                    self._waiting and self._waiting[0].request is not None and len(followers) < self._requests_max - 1
                ):
                    followers.append(self._waiting.popleft())

    def _hand_over(self) -> None:
        with self._mutex:
            if self._waiting:
                successor = self._waiting.popleft()
                successor.leads = True
                successor.wake.release()
            else:
                self._is_led = False
