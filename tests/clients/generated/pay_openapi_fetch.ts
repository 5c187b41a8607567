// Quote and pay with openapi-fetch, typed by openapi-typescript.
import createClient from "openapi-fetch";
import type { components, paths } from "./schema";

declare const process: { env: Record<string, string> };

async function main(): Promise<void> {
  const client = createClient<paths>({
    baseUrl: process.env.URL,
    headers: { Authorization: `Bearer ${process.env.KEY}` },
  });
  const body: components["schemas"]["QuoteRequest"] = {
    external_ref: "openapi-fetch",
    destination: {
      type: "custodian_account",
      account_type: "EXTERNAL_WALLET",
      id: "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3",
    },
    asset: "USDC",
    amount: "43",
  };
  const quoted = await client.POST("/payouts/quote", {
    params: { header: { "Idempotency-Key": crypto.randomUUID() } },
    body,
  });
  if (quoted.error) throw new Error(quoted.error.detail);
  const quote_id = quoted.data.quote_id;
  const made = await client.POST("/payouts", { body: { quote_id } });
  if (made.error) throw new Error(made.error.detail);
  let payout = made.data;
  for (let n = 0; n < 200 && payout.status !== "delivered" && payout.status !== "failed"; n++) {
    await new Promise((done) => setTimeout(done, 100));
    const read = await client.GET("/payouts/{payout_id}", { params: { path: { payout_id: payout.id } } });
    if (read.error) throw new Error(read.error.detail);
    payout = read.data;
  }
  const again = await client.POST("/payouts", { body: { quote_id } });
  const refusal: components["schemas"]["Problem"]["code"] | undefined = again.error?.code;
  const events = await client.GET("/events", { params: { query: { payout_id: payout.id } } });
  if (events.error) throw new Error(events.error.detail);
  const kinds = events.data.data.map((event) => event.type);
  const delivered = events.data.data.find((event) => event.type === "payout.delivered");
  const amount = delivered?.type === "payout.delivered" ? delivered.data.quote.amount : null;
  const dated = Date.parse(payout.created_at) > 0;
  console.log(JSON.stringify({ status: payout.status, refusal, kinds, amount, dated }));
}

void main();
