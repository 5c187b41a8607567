"""Quote and pay with the client that openapi-python-client makes."""

import json
import os
import time
import uuid
from datetime import datetime

from payout_gateway_client import AuthenticatedClient
from payout_gateway_client.api.events import list_events
from payout_gateway_client.api.payouts import create_payout, create_quote, get_payout
from payout_gateway_client.models import (
    CustodianAccountDestination,
    PayoutDeliveredEvent,
    PayoutRequest,
    Problem,
    QuoteRequest,
    Status,
)

with AuthenticatedClient(base_url=os.environ["URL"], token=os.environ["KEY"]) as client:
    destination = CustodianAccountDestination(
        type_="custodian_account",
        account_type="EXTERNAL_WALLET",
        id="bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3",
    )
    body = QuoteRequest(
        external_ref="openapi-python-client", destination=destination, asset="USDC", amount="43"
    )
    quote = create_quote.sync(client=client, body=body, idempotency_key=str(uuid.uuid4()))
    assert quote is not None
    assert not isinstance(quote, Problem), quote
    request = PayoutRequest(quote_id=quote.quote_id)
    payout = create_payout.sync(client=client, body=request)
    for _ in range(200):
        assert payout is not None
        assert not isinstance(payout, Problem), payout
        if payout.status in {Status.DELIVERED, Status.FAILED}:
            break
        time.sleep(0.1)
        payout = get_payout.sync(payout.id, client=client)
    assert payout is not None
    assert not isinstance(payout, Problem), payout
    again = create_payout.sync(client=client, body=request)
    events = list_events.sync(client=client, payout_id=payout.id)
    assert events is not None
    assert not isinstance(events, Problem), events
    [delivered] = [each for each in events.data if isinstance(each, PayoutDeliveredEvent)]
    told = {
        "status": payout.status,
        "refusal": again.code if isinstance(again, Problem) else None,
        "kinds": [each.type_ for each in events.data],
        "amount": delivered.data.quote.amount,
        "dated": isinstance(payout.created_at, datetime),
    }
    print(json.dumps(told))
