// A receiver that believes a delivery only if two libraries of others and the documentation's own
// function all verify it. Prints its port, then one line per delivery.
import { createServer } from "node:http";
import { Webhook as Standard } from "standardwebhooks";
import { Webhook as Svix } from "svix";
import { authentic } from "./page.mjs";

const secret = process.env.WEBHOOK_SECRET;
const verifies = (library, body, headers) => {
  try {
    new library(secret).verify(body, headers);
    return true;
  } catch {
    return false;
  }
};

const server = createServer((request, answer) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    const seen = [
      verifies(Standard, body.toString("utf8"), request.headers),
      verifies(Svix, body.toString("utf8"), request.headers),
      authentic(secret, request.headers, body),
    ];
    console.log(JSON.stringify(seen));
    answer.writeHead(seen.every(Boolean) ? 204 : 400).end();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
