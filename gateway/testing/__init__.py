"""What authors of adapters get: the kit, a stack of real processes, orders, a clock.

Installed as `payout-gateway[testing]`. Nothing of the gateway imports it.
"""

from __future__ import annotations

import pytest

# Before they are imported: their assertions say what they have compared.
pytest.register_assert_rewrite(
    "gateway.testing.kit_calls",
    "gateway.testing.kit_optional",
    "gateway.testing.kit_static",
    "gateway.testing.kit_webhooks",
    "gateway.testing.kit_whole",
    "gateway.testing.bench",
)

from gateway.runtime import Failpoint  # noqa: E402
from gateway.testing.bench import Bench, Course  # noqa: E402
from gateway.testing.clock import SetClock  # noqa: E402
from gateway.testing.declared import Life, Refusal  # noqa: E402
from gateway.testing.kit import AdapterKit  # noqa: E402
from gateway.testing.kit_base import account  # noqa: E402
from gateway.testing.orders import Elapsed, ItemForTest, Mark, OrderForTest  # noqa: E402
from gateway.testing.stack import Rail, Stack, eventually, stack, subscribe  # noqa: E402

__all__ = [
    "AdapterKit",
    "Bench",
    "Course",
    "Elapsed",
    "Failpoint",
    "ItemForTest",
    "Life",
    "Mark",
    "OrderForTest",
    "Rail",
    "Refusal",
    "SetClock",
    "Stack",
    "account",
    "eventually",
    "stack",
    "subscribe",
]
