"""Asks a custodian that did not answer whether it answers again, once its breaker is half-open. Reads only."""

from __future__ import annotations

from gateway.custodians.breaker import Breaker, BreakerState
from gateway.custodians.instance import CustodianInstance
from gateway.logs import get_logger
from gateway.metrics import Metrics
from gateway.model import Account
from gateway.runtime import Clock
from gateway.wakeup import Wakeup

#: Any length will do, because nothing happens before the bell rings.
_LONG_S = 3600.0
_log = get_logger("breaker")


class Probes:
    """Watches the breaker of one instance."""

    def __init__(
        self,
        custodian: CustodianInstance,
        breaker: Breaker,
        account: Account | None,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._custodian = custodian
        self._breaker = breaker
        #: an account whose balance can be read, if the adapter has no other read
        self._account = account
        self._metrics = metrics
        self._wakeup = Wakeup(clock)
        breaker.changed = self._changed

    async def run(self) -> None:
        """Ask whenever the time has come, until cancelled."""
        while True:
            wait_s = self._breaker.wait_s()
            if self._breaker.state is BreakerState.HALF_OPEN:
                await self.probe()
                continue
            await self._wakeup.sleep(_LONG_S if wait_s is None else wait_s)

    async def probe(self) -> None:
        """Ask once; how the request ends is noted by the instance's connections."""
        if not await self._custodian.probe(self._account):
            self._breaker.nothing_to_ask()
        elif self._breaker.state is BreakerState.HALF_OPEN:
            # The probe failed before it made a request.
            self._breaker.fault("unreachable")

    def _changed(self) -> None:
        state = self._breaker.state
        self._metrics.breaker(self._custodian.name, state is not BreakerState.CLOSED)
        _log.warning(
            "breaker", custodian=self._custodian.name, state=state, detail=self._breaker.word
        )
        self._wakeup.ring()
