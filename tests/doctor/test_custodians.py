"""Each custodian against its twin: what answers, what refuses, whose clock is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.config.settings import Settings, load
from gateway.doctor import Finding, Level, custodians
from gateway.runtime import Ids, Moment, Runtime, SystemClock, real_runtime
from tests.e2e.stack import DUMMY, ERC20, FIREBLOCKS, PASSCODE, Rail, free_port, stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]


class Off(SystemClock):
    """The machine's clock, with a wall clock that is ahead."""

    def moment(self) -> Moment:
        """Return this moment."""
        now = super().moment()
        return replace(now, wall=now.wall + 120_000_000)


async def found(settings: Settings, clock: SystemClock | None = None) -> dict[str, Finding]:
    """Return what is found, by check; whatever is not fine says what to do."""
    runtime = real_runtime() if clock is None else Runtime(clock=clock, ids=Ids(clock))
    every = [each async for each in custodians.check(settings, runtime)]
    assert all(each.fix for each in every if each.level is not Level.OK)
    return {each.check: each for each in every}


def with_settings(settings: Settings, name: str, **changes: Any) -> Settings:
    """Return settings with others of one custodian."""
    custodian = settings.custodians[name]
    other = custodian.model_copy(update={**custodian.adapter_settings, **changes})
    extra = {**custodian.adapter_settings, **changes}
    object.__setattr__(other, "__pydantic_extra__", extra)
    return settings.model_copy(update={"custodians": {name: other}})


@pytest.mark.parametrize("rail", [FIREBLOCKS, ERC20, PASSCODE, DUMMY], ids=lambda rail: rail.name)
async def test_a_custodian(tmp_path: Path, rail: Rail) -> None:
    """Its read is harmless: no payout is begun. Then its server fails, and then it is away."""
    async with stack(tmp_path, rail=rail) as made:
        name, settings = rail.name, load(made.config)
        findings = await found(settings)
        checked = Level.WARNING if rail is PASSCODE else Level.OK
        assert findings[f"custodian {name}"].level is checked, findings
        assert findings[f"clock of {name}"].level is Level.OK
        assert await made.ledger() == []
        off = (await found(settings, Off()))[f"clock of {name}"]
        assert "+12" in off.detail or "+11" in off.detail
        assert off.level is (Level.FAILED if rail is FIREBLOCKS else Level.WARNING)
        address = settings.custodians[name].adapter_settings["base_url"]
        nowhere = re.sub(r":\d+", f":{free_port()}", address)
        away = with_settings(settings, name, base_url=nowhere)
        findings = await found(away)
        assert findings[f"custodian {name}"].level is Level.FAILED
        assert "unreachable" in findings[f"custodian {name}"].detail
        assert findings[f"clock of {name}"].level is not Level.OK


@pytest.mark.parametrize(
    ("rail", "secret"), [(FIREBLOCKS, "api_key"), (ERC20, "auth_token"), (DUMMY, "api_key")]
)
async def test_credentials_that_are_refused(tmp_path: Path, rail: Rail, secret: str) -> None:
    """Distinguished from a custodian that is down; the credential is not printed."""
    async with stack(tmp_path, rail=rail) as made:
        settings = with_settings(load(made.config), rail.name, **{secret: "wrong-and-secret"})
        finding = (await found(settings))[f"custodian {rail.name}"]
        assert finding.level is Level.FAILED
        assert "refuses credentials" in finding.detail
        assert "wrong-and-secret" not in str(finding)
        broken = with_settings(load(made.config), rail.name, nonsense=1)
        finding = (await found(broken))[f"custodian {rail.name}"]
        assert finding.level is Level.FAILED
        assert "nonsense" in finding.detail


async def test_the_command(tmp_path: Path) -> None:
    """Beside a running gateway: exit code 0, JSON, and no secret; 1 where something fails."""
    async with stack(tmp_path, rail=FIREBLOCKS) as made:
        await made.serve()
        made.config.chmod(0o600)
        code, out, err = await made.command("doctor", "--json")
        told = json.loads(out)
        assert (code, told["ok"]) == (0, True), (out, err)
        checks = {each["check"] for each in told["findings"]}
        assert {"configuration", "disk", "permissions", "open files", "database"} <= checks
        assert {"schema", "frozen", "rules", "gateways", "custodian fireblocks"} <= checks
        (gateway,) = [each for each in told["findings"] if each["check"] == "gateways"]
        assert "same version, configuration and rules" in gateway["detail"]
        settings = load(made.config)
        secrets = [settings.server_key.get_secret_value()]
        secrets += [
            value
            for key, value in settings.custodians["fireblocks"].adapter_settings.items()
            if key in {"api_key", "private_key"}
        ]
        await made.kill()
        made.config.chmod(0o644)
        code, words, _ = await made.command("doctor", "--no-wait")
        assert code == 1
        assert "fix: chmod 600" in words
        assert not any(each in out + words for each in secrets)
