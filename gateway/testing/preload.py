"""Imported once, in the server that test processes are forked from: whatever they may run.

A twin that cannot be imported does not stop the others; it says why when it is started.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from importlib.metadata import entry_points

from gateway.testing.processes import TWINS

for _module in (
    "gateway.__main__",
    "gateway.testing.serving",
    *sorted(each.module for each in entry_points(group=TWINS)),
):
    with suppress(Exception):
        importlib.import_module(_module)
