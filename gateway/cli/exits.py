"""Exit codes of the commands. The reference lists them from here."""

from __future__ import annotations

from typing import Final

WORKED: Final = 0
FAILED: Final = 1
UNUSABLE: Final = 2
NOT_ALL_DELIVERED: Final = 3
STOPPED: Final = 130

MEANINGS: Final = {
    WORKED: "Success. With `--watch`: every payout was delivered.",
    FAILED: "Failure: there is no such payout, key or endpoint, a proof is missing, the gateway does not answer, "
    "a check failed, or the reader of the output has gone. The message has the reason.",
    UNUSABLE: "Not attempted: the arguments, the configuration or the database cannot be used.",
    NOT_ALL_DELIVERED: "`batches … --watch`: the batch ended, and not every payout was delivered.",
    STOPPED: "Stopped by Ctrl-C while working. Commands that run until they are stopped (`serve`, `sandbox`, "
    "`demo --serve`, `webhooks listen`) then exit with 0, and a question that was not answered exits with 1.",
}
