// Quote and pay with the client that openapi-generator makes for typescript-fetch.
import { Configuration, EventsApi, PayoutsApi, ResponseError } from "./fetch";

declare const process: { env: Record<string, string> };

async function main(): Promise<void> {
  const configuration = new Configuration({ basePath: process.env.URL, accessToken: process.env.KEY });
  const payouts = new PayoutsApi(configuration);
  const quote = await payouts.createQuote({
    idempotencyKey: crypto.randomUUID(),
    quoteRequest: {
      externalRef: "typescript-fetch",
      destination: {
        type: "custodian_account",
        accountType: "EXTERNAL_WALLET",
        id: "bef85a1c-b605-4b2e-bdb5-2d400f4d0bf3",
      },
      asset: "USDC",
      amount: "43",
    },
  });
  let payout = await payouts.createPayout({ payoutRequest: { quoteId: quote.quoteId } });
  for (let n = 0; n < 200 && payout.status !== "delivered" && payout.status !== "failed"; n++) {
    await new Promise((done) => setTimeout(done, 100));
    payout = await payouts.getPayout({ payoutId: payout.id });
  }
  const refusal = await payouts
    .createPayout({ payoutRequest: { quoteId: quote.quoteId } })
    .catch(async (error: ResponseError) => (await error.response.json()).code as string);
  const events = await new EventsApi(configuration).listEvents({ payoutId: payout.id });
  const kinds = events.data.map((event) => event.type);
  const delivered = events.data.find((event) => event.type === "payout.delivered");
  // The union tells its kinds apart: the payout is known here.
  const amount = delivered?.type === "payout.delivered" ? delivered.data.quote.amount : null;
  const dated = payout.createdAt instanceof Date && payout.createdAt.getTime() > 0;
  console.log(JSON.stringify({ status: payout.status, refusal, kinds, amount, dated }));
}

void main();
