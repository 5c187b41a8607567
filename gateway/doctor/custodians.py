"""The custodians: whether they answer, take our credentials, and agree with our clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.app import custodian_of, late_keys
from gateway.config.settings import Settings
from gateway.credentials import accounts_of
from gateway.custodians.contact import Contact
from gateway.custodians.instance import CustodianInstance
from gateway.doctor.findings import Finding, failed, ok, warning
from gateway.errors import BrokenPackage, ConfigError, NotSent, Unsupported
from gateway.runtime import Runtime

_FIX = {
    "unreachable": "check base_url, the name server, the firewall and the custodian's status page",
    "failing": "the custodian's server fails: look at its status page, and try again later",
    "refuses_credentials": "set the credentials that the custodian shows for this key; look at the rights "
    "of the key, at its list of allowed addresses, and at the clock below",
}


async def check(settings: Settings, runtime: Runtime) -> AsyncIterator[Finding]:
    """Make one harmless read at every custodian, at once."""
    found = await asyncio.gather(
        *(_custodian(settings, name, runtime) for name in settings.custodians)
    )
    for findings in found:
        for each in findings:
            yield each


async def _custodian(settings: Settings, name: str, runtime: Runtime) -> list[Finding]:
    check, contact = f"custodian {name}", Contact()
    try:
        async with custodian_of(settings, name, runtime, contact) as instance:
            late = late_keys(settings, {name: instance})
            findings = [failed(check, each, "lower engine.submit_within_s") for each in late]
            findings.append(await _read(check, settings, instance, contact))
            if contact.last is not None:
                findings.append(_clock(f"clock of {name}", instance))
            return findings
    except BrokenPackage as error:
        fix = "install a version of the adapter that fits (payout-gateway adapters list)"
        return [failed(check, each, fix) for each in error.faults]
    except ConfigError as error:
        fix = "correct it in the configuration"
        return [failed(check, each, fix) for each in error.faults]


async def _read(
    check: str, settings: Settings, instance: CustodianInstance, contact: Contact
) -> Finding:
    """Read something that changes nothing; with credentials, where the adapter has such a read."""
    what, words = "", ""
    try:
        what = await instance.touch(accounts_of(settings, instance.name))
    except Unsupported:
        words = "the adapter has no read that needs credentials"
        try:
            await instance.reach()
        except NotSent as error:
            words = str(error)
    except NotSent as error:
        words = str(error)
    if contact.last in _FIX:
        detail = words or f"{what} was answered with an error"
        return failed(check, f"{contact.last.replace('_', ' ')}: {detail}", _FIX[contact.last])
    if what:
        return ok(check, f"answers, and takes our credentials ({what} was read)")
    if contact.last is None:
        return failed(check, words, _FIX["unreachable"])
    if words.startswith("the adapter has no read"):
        fix = "watch the first payout: nothing before it shows whether they are right"
        return warning(check, f"answers; its credentials were not checked: {words}", fix)
    return failed(check, words, "correct what it names in the configuration")


def _clock(check: str, instance: CustodianInstance) -> Finding:
    skew, most = instance.dates.skew_s(), instance.capabilities.clock_skew_s
    dated = instance.capabilities.dated_by_clock
    fix = "synchronise the clock of this machine (chrony, NTP); then run this again"
    if skew is None:
        told = "no answer of the custodian had a Date header"
        if dated:
            return failed(check, f"{told}: no payout is handed over", fix)
        return warning(check, f"{told}: our clock cannot be compared", fix)
    told = f"our clock is {skew:+.1f} s off"
    if abs(skew) <= most:
        return ok(check, told)
    if dated:
        return failed(check, f"{told}, and {most:g} s are allowed: no payout is handed over", fix)
    return warning(check, f"{told}: webhooks and signatures with a time may be refused", fix)
