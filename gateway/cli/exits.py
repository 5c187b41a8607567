"""Exit codes of the commands. The reference lists them from here."""

from __future__ import annotations

from typing import Final

WORKED: Final = 0
FAILED: Final = 1
UNUSABLE: Final = 2
NOT_ALL_DELIVERED: Final = 3
STOPPED: Final = 130

MEANINGS: Final = {
    WORKED: "It worked. With `--watch`: every payout was delivered.",
    FAILED: "It did not work: there is no such payout, key or endpoint, a proof is missing, the gateway does "
    "not answer, a check failed, or the reader of the output has gone. The message says which.",
    UNUSABLE: "It could not be tried: the arguments, the configuration, or a database that cannot be used.",
    NOT_ALL_DELIVERED: "`batches … --watch`: the batch ended, and not every payout was delivered.",
    STOPPED: "Stopped by Ctrl-C while it worked. What runs until it is stopped (`serve`, `sandbox`, `demo --serve`, "
    "`webhooks listen`) ends with 0 then, and a question that is not answered with 1.",
}
