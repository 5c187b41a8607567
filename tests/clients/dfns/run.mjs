// The custodian's own JavaScript client against the twin, unchanged. One line per step; throws on the first fault.
import assert from "node:assert/strict";
import { DfnsApiClient } from "@dfns/sdk";
import { AsymmetricKeySigner } from "@dfns/sdk-keysigner";

const { url, credentials } = JSON.parse(process.env.DFNS_TWIN);
const wallet = "wa-5pfuu-9euek-h0odgb6snva8ph3k";
const contract = "0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238";
const payee = "0x52908400098527886E0F7030069857D2E4169EE7";
const signer = new AsymmetricKeySigner({
  credId: credentials.credential_id,
  privateKey: credentials.private_key,
});
const dfns = new DfnsApiClient({ baseUrl: url, authToken: credentials.auth_token, signer });

const asset = { kind: "Erc20", amount: "43000000", contract };
const wanted = { walletId: wallet, asset, fiatCurrency: "EUR", provider: "Borderless", country: "DE" };
const create = {
  ...wanted,
  borderlessAccountId: credentials.borderless_account_id,
  paymentInstructionsId: "c2b7a3de-51d0-4c38-8a07-9b1de0a7f302",
  paymentPurpose: "salary payment",
};

const step = (words) => console.log(`ok  ${words}`);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function until(look, done) {
  const end = Date.now() + 20_000;
  for (;;) {
    const seen = await look();
    if (done(seen)) return seen;
    assert.ok(Date.now() < end, `still ${JSON.stringify(seen)}`);
    await pause(20);
  }
}

const payoutAt = (payoutId, execution) =>
  until(
    () => dfns.payouts.getPayout({ payoutId }),
    (seen) => seen.data.executionStatus === execution,
  );

const quote = await dfns.payouts.createPayoutQuote({ body: wanted });
assert.equal(quote.quotes[0].offer.fiatCurrency, "EUR");
step("quote");

const made = await dfns.payouts.createPayout({ body: { ...create, externalId: "js-1" } });
const again = await dfns.payouts.createPayout({ body: { ...create, externalId: "js-1" } });
assert.equal(again.id, made.id);
step("create, and the same again by its external id");

const waiting = await payoutAt(made.id, "AwaitingPayoutConfirmation");
await dfns.payouts.createPayoutAction({
  payoutId: made.id,
  body: { action: "Confirm", walletId: wallet, transfer: { ...asset, to: waiting.data.depositAddress } },
});
const paid = await payoutAt(made.id, "Completed");
assert.equal(paid.status, "Completed");
assert.ok(paid.data.transactionHash);
step("confirm, followed to Completed");

const unwanted = await dfns.payouts.createPayout({ body: create });
await payoutAt(unwanted.id, "AwaitingPayoutConfirmation");
await dfns.payouts.createPayoutAction({ payoutId: unwanted.id, body: { action: "Cancel" } });
assert.equal((await dfns.payouts.getPayout({ payoutId: unwanted.id })).status, "Canceled");
step("cancel");

const listed = await dfns.payouts.listPayouts({ query: { status: ["Completed", "Canceled"], walletId: wallet } });
assert.deepEqual(new Set(listed.items.map((each) => each.id)), new Set([made.id, unwanted.id]));
step("list, by repeated status");

const body = { kind: "Erc20", to: payee, amount: "1000000", contract, externalId: "js-2" };
const transfer = await dfns.wallets.transferAsset({ walletId: wallet, body });
assert.equal((await dfns.wallets.transferAsset({ walletId: wallet, body })).id, transfer.id);
const confirmed = await until(
  () => dfns.wallets.getTransfer({ walletId: wallet, transferId: transfer.id }),
  (seen) => seen.status === "Confirmed",
);
assert.ok(confirmed.txHash);
await assert.rejects(
  dfns.wallets.transferAsset({ walletId: wallet, body: { ...body, amount: "2" } }),
  (error) => error.httpStatus === 409,
);
step("wallet transfer, once per external id");

await assert.rejects(
  dfns.wallets.transferAsset({ walletId: wallet, body: { ...body, amount: "1000601", externalId: "js-3" } }),
  (error) => error.name === "PolicyPendingError" || error.httpStatus === 202,
);
step("a policy's 202 is PolicyPendingError");

const stranger = new DfnsApiClient({ baseUrl: url, authToken: "sa-stranger", signer });
await assert.rejects(stranger.payouts.listPayouts(), (error) => error.httpStatus === 401);
step("a stranger is refused");
