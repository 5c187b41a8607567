"""`init`: writes a first configuration."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from gateway.cli.common import fail, print_json, say
from gateway.runtime import real_runtime

_TEMPLATE = """# Payout gateway. Every setting is explained in docs/reference/settings.md.
# Any setting may come from a file (add _file to its name) or from the environment (PAYOUT_GATEWAY_…).

database = "payout-gateway.db"
public_url = "http://127.0.0.1:8080"
server_key_file = "{key}"

[listen]
host = "127.0.0.1"
port = 8080

# A custodian instance. `payout-gateway sandbox --config-out FILE` writes a whole working example.
# [custodians.fb_eu]
# adapter = "fireblocks"
# modes = ["live"]
# base_url = "https://eu-api.fireblocks.io/v1"
# api_key_file = "fireblocks-api-key"
# private_key_file = "fireblocks-secret.pem"
# jwks_url = "https://eu-keys.fireblocks.io/.well-known/jwks.json"
# workspace_id = "the id of your workspace: webhooks of other workspaces are refused"
# assets = {{ USDC = {{ asset_id = "USDC", network = "Ethereum" }} }}

# Accept no more payouts than the accounts cover:
# reserve = true

# Which account pays which kind of destination. The first route that fits is taken.
# [[routes]]
# destination = "custodian_account"
# custodian = "fb_eu"
# account = {{ id = "7", type = "VAULT_ACCOUNT" }}
# networks = ["Ethereum"]
# fee = {{ flat = "0", basis_points = "0" }}

# What may be spent. Every payout is capped; an asset that is not pegged to the dollar needs a price.
# [spending]
# payout_cap_usd = "100000"
#
# [[spending.limits]]
# name = "org-daily"
# per = "day"
# amount = "1000000"
# each = ["org"]
#
# [prices]
# usd = {{ ETH = "3000" }}
"""


def write(config: Path, *, as_json: bool = False) -> None:
    """Write configuration and key; exit with 1 if either exists or the folder is not writable."""
    key = config.with_name("server.key")
    for path in (config, key):
        if path.exists():
            fail(
                f"{path} exists; nothing was written. Move it away, or name another file with --config."
            )
    try:
        _write_new(key, base64.b64encode(real_runtime().ids.random_bytes(32)).decode() + "\n")
        _write_new(config, _TEMPLATE.format(key=key.name))
    except OSError as error:
        fail(f"{error.filename} cannot be written: {error.strerror}", 2)
    if as_json:
        print_json({"written": [str(config), str(key)]})
        return
    say(
        f"wrote {config} and {key} (readable by you only)",
        f"next: configure a custodian and a route in {config}, then run: "
        f"payout-gateway doctor --config {config}",
    )


def _write_new(path: Path, text: str) -> None:
    """Write a file that only its owner can read; never replace an existing one."""
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
    ) as file:
        file.write(text)
