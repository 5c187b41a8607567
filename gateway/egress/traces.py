"""Joins several traces of one session's requests into one."""

from __future__ import annotations

import aiohttp

_SIGNALS = tuple(name for name in dir(aiohttp.TraceConfig()) if name.startswith("on_"))


def joined(*traces: aiohttp.TraceConfig) -> aiohttp.TraceConfig:
    """Return one trace that does what several do, in their order. None may use its context.

    A session awaits every trace at every step of a request, whether it listens to that step or not.
    """
    whole = aiohttp.TraceConfig()
    for name in _SIGNALS:
        for each in traces:
            getattr(whole, name).extend(getattr(each, name))
    return whole
