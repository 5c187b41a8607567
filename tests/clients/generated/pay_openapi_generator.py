"""Quote and pay with the client that openapi-generator makes for Python."""

import json
import os
import time
import uuid
from datetime import datetime

import openapi_client
from openapi_client.models.custodian_account_destination import CustodianAccountDestination
from openapi_client.models.destination_or_address import DestinationOrAddress
from openapi_client.models.payout_delivered_event import PayoutDeliveredEvent
from openapi_client.models.payout_request import PayoutRequest
from openapi_client.models.quote_request import QuoteRequest
from openapi_client.models.status import Status

configuration = openapi_client.Configuration(host=os.environ["URL"], access_token=os.environ["KEY"])
with openapi_client.ApiClient(configuration) as http:
    payouts = openapi_client.PayoutsApi(http)
    destination = CustodianAccountDestination(
        type="custodian_account",
        account_type="EXTERNAL_WALLET",
        id="bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3",
    )
    quote = payouts.create_quote(
        str(uuid.uuid4()),
        QuoteRequest(
            external_ref="openapi-generator",
            destination=DestinationOrAddress(destination),
            asset="USDC",
            amount="43",
        ),
    )
    request = PayoutRequest(quote_id=quote.quote_id)
    payout = payouts.create_payout(request)
    for _ in range(200):
        if payout.status in {Status.DELIVERED, Status.FAILED}:
            break
        time.sleep(0.1)
        payout = payouts.get_payout(payout.id)
    refusal = None
    try:
        payouts.create_payout(request)
    except openapi_client.ApiException as error:
        refusal = json.loads(error.body)["code"]
    events = openapi_client.EventsApi(http).list_events(payout_id=payout.id).data
    kinds = [each.actual_instance.type for each in events]
    [delivered] = [
        each.actual_instance
        for each in events
        if isinstance(each.actual_instance, PayoutDeliveredEvent)
    ]
    told = {
        "status": payout.status,
        "refusal": refusal,
        "kinds": kinds,
        "amount": delivered.data.quote.amount,
        "dated": isinstance(payout.created_at, datetime),
    }
    print(json.dumps(told))
