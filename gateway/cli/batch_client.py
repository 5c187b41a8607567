"""The partner API as the command line uses it for batches."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from gateway.cli.printing import cell, console, say

_TIMEOUT = aiohttp.ClientTimeout(total=600, sock_connect=10)
_ENDS = frozenset({"finalized", "failed", "canceled"})
_LOOK_S = 1.0
_FAULTS_SHOWN = 20
_OK = 300


class CallError(Exception):
    """A call that was refused or could not be made; the message says what to do."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        #: the lines of the message; the gateway's text is not broken into further lines
        self.lines = lines


class BatchClient:
    """Calls about batches."""

    def __init__(self, gateway: str, api_key: str) -> None:
        if not gateway.startswith(("http://", "https://")):
            msg = f"--gateway {gateway}: give a URL with http:// or https://"
            raise CallError(msg)
        if not api_key.isascii() or not api_key.isprintable():
            msg = "the API key has characters that no key has; check PAYOUT_GATEWAY_API_KEY"
            raise CallError(msg)
        self._base = gateway.rstrip("/") + "/payout-batches"
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open the session."""
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False, headers=self._headers)
        return self

    async def __aexit__(
        self,
        _: type[BaseException] | None,
        __: BaseException | None,
        ___: TracebackType | None,
    ) -> None:
        """Close the session."""
        await self._http.close()

    async def create(
        self, file: Path, source: dict[str, str], *, reference: str, key: str, dry_run: bool
    ) -> dict[str, Any]:
        """Upload a file; return the batch, or the result of a dry run."""
        digest = await asyncio.to_thread(_digest, file)
        query = {**source, **({"reference": reference} if reference else {})}
        if dry_run:
            query["validate"] = "true"
        headers = {"Content-Type": "text/csv", "Idempotency-Key": key or f"file-{digest}"}
        with file.open("rb") as body:
            return await self._call("POST", "", params=query, headers=headers, data=body)

    async def get(self, batch_id: str) -> dict[str, Any]:
        """Return a batch."""
        return await self._call("GET", f"/{batch_id}")

    async def execute(self, batch_id: str) -> dict[str, Any]:
        """Execute a batch; one that was already executed is returned unchanged."""
        try:
            return await self._call("POST", f"/{batch_id}/execute", json={})
        except CallError as error:
            if "batch_already_executed" not in str(error):
                raise
            return await self.get(batch_id)

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Cancel the payouts that were not sent."""
        return await self._call("POST", f"/{batch_id}/cancel", json={})

    async def watch(self, batch_id: str, *, quiet: bool) -> dict[str, Any]:
        """Follow a batch to its end; wait for the gateway if it does not answer.

        It shows a bar on a terminal, and otherwise a line for each change. With `quiet` it prints
        nothing.
        """
        if not quiet and sys.stdout.isatty():
            return await self._with_bar(batch_id)
        last = ""
        async for batch in self._looks(batch_id):
            line = f"{batch_id}: no answer" if batch is None else _line(batch)
            if not quiet and line != last:
                say(line)
            last = line
            if batch is not None and batch["state"] in _ENDS:
                return batch
        raise AssertionError  # looks never end

    async def _with_bar(self, batch_id: str) -> dict[str, Any]:
        with Progress(*progress_columns(), console=console()) as progress:
            task = progress.add_task("waiting", total=None, failed=0)
            async for batch in self._looks(batch_id):
                if batch is None:
                    progress.update(task, description="no answer")
                    continue
                progress.update(
                    task,
                    description=cell(batch["state"]).plain,
                    completed=batch["delivered_count"] + batch["failed_count"],
                    total=batch["item_count"],
                    failed=batch["failed_count"],
                )
                if batch["state"] in _ENDS:
                    return batch
        raise AssertionError  # looks never end

    async def _looks(self, batch_id: str) -> AsyncIterator[dict[str, Any] | None]:
        """Yield a batch's state repeatedly, without end; None if the gateway does not answer."""
        while True:
            try:
                batch = await self.get(batch_id)
            except ConnectionError:
                yield None
            else:
                yield batch
            await asyncio.sleep(_LOOK_S)

    async def report(self, batch_id: str, into: Path) -> bool:
        """Write the report; return whether it is final."""
        url = f"{self._base}/{batch_id}/report.csv"
        try:
            async with self._http.get(url) as answer:
                if answer.status >= _OK:
                    raise _refused(answer.status, await answer.read())
                with into.open("wb") as file:
                    async for chunk in answer.content.iter_chunked(65536):
                        await asyncio.to_thread(file.write, chunk)
                return answer.headers.get("Report-Final") == "true"
        except (aiohttp.ClientError, TimeoutError) as error:
            msg = f"the report was not written: {_silent(self._base, error)}"
            raise CallError(msg) from None
        except OSError as error:
            msg = f"{into} cannot be written: {error.strerror or error}"
            raise CallError(msg) from None

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        try:
            async with self._http.request(method, self._base + path, **options) as answer:
                raw = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            if method == "GET" and isinstance(error, aiohttp.ClientConnectionError):
                raise ConnectionError(_silent(self._base, error)) from None
            msg = (
                f"{_silent(self._base, error)}. The command can be repeated: nothing is paid twice"
            )
            raise CallError(msg) from None
        if answer.status >= _OK:
            raise _refused(answer.status, raw)
        try:
            told = json.loads(raw)
        except ValueError:
            told = None
        if not isinstance(told, dict):
            msg = f"{self._base} answers, and is no gateway: check --gateway"
            raise CallError(msg)
        return told


def _silent(url: str, error: BaseException) -> str:
    """Return in words why no answer came."""
    if isinstance(error, aiohttp.InvalidURL):
        return f"{url} is not a URL: check --gateway"
    cause = getattr(error, "os_error", None) or error
    reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"{url} does not answer ({reason}): check --gateway, and whether the gateway runs"


def _line(batch: dict[str, Any]) -> str:
    """Return a batch's progress on one line."""
    return (
        f"{batch['id']}: {batch['state']}, {batch['delivered_count']} delivered and "
        f"{batch['failed_count']} failed of {batch['item_count']}"
    )


def progress_columns() -> tuple[ProgressColumn, ...]:
    """Return the progress columns of a running batch. The description is plain text, never markup."""
    return (
        TextColumn("{task.description:<15}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed", markup=False),
        TimeElapsedColumn(),
    )


def _refused(status: int, raw: bytes) -> CallError:
    """Return the text of a problem document, with its errors."""
    try:
        problem = json.loads(raw)
        faults = problem.get("errors", [])
        lines = [f"{problem['code']}: {problem['detail']}"]
        lines += [f"  {each['pointer']}: {each['detail']}" for each in faults[:_FAULTS_SHOWN]]
        if len(faults) > _FAULTS_SHOWN:
            lines.append(f"  and {len(faults) - _FAULTS_SHOWN} more")
        return CallError(*lines)
    except (ValueError, KeyError, TypeError):
        return CallError(f"HTTP {status}: check --gateway")


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:40]
