"""A gateway process that kills or stops itself at a failpoint. For the crash tests only.

    python -m tests.e2e.stopping_gateway --config g.toml [--at order.moved --how kill|stop]

With `--quick` the waiting times of the adapters shrink to about a second, so that the
recovery of an unknown outcome can be watched; the rule itself stays the same.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from adapters.card_passcode.adapter import CardPasscode
from adapters.dfns.adapter import Dfns
from adapters.fireblocks.adapter import Fireblocks
from gateway import config
from gateway.adapter import Capabilities
from gateway.runtime import Failpoint, Runtime, real_runtime
from gateway.server import serve


def stop_at(failpoint: Failpoint, how: signal.Signals) -> Callable[[Failpoint], None]:
    """Return a hook that sends the signal to this very process, once, at the failpoint."""
    done: list[Failpoint] = []

    def hook(reached: Failpoint) -> None:
        if reached is failpoint and not done:
            done.append(reached)
            os.kill(os.getpid(), how)

    return hook


def quick(can: Capabilities, call_life_s: float | None) -> Capabilities:
    """Return an adapter's capabilities with short waiting times."""
    curve = (0.2, 0.3, 0.4, 0.5)
    return replace(can, call_life_s=call_life_s, visibility_s=0.5, polling_s=curve)


def main() -> int:
    """Serve until told to stop, or until the failpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--at", type=Failpoint)
    parser.add_argument("--how", choices=["kill", "stop"], default="kill")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    runtime: Runtime = real_runtime()
    if options.at is not None:
        how = signal.SIGKILL if options.how == "kill" else signal.SIGSTOP
        runtime = replace(runtime, failpoint=stop_at(options.at, how))
    if options.quick:
        Fireblocks.capabilities = quick(Fireblocks.capabilities, call_life_s=1.0)
        CardPasscode.capabilities = quick(CardPasscode.capabilities, call_life_s=1.0)
        # Of Dfns it is a setting, because the vendor does not tell it.
        Dfns.capabilities = quick(Dfns.capabilities, call_life_s=Dfns.capabilities.call_life_s)
    return asyncio.run(
        serve(
            config.load(options.config),
            port=options.port,
            runtime=runtime,
            ready=lambda url: print(url, flush=True),
        )
    )


if __name__ == "__main__":
    sys.exit(main())
