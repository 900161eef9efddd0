// Produces one payment event of each type, plain or as CloudEvents. See ../README.md.

import { randomUUID } from "node:crypto";
import { Kafka, Partitioners, logLevel } from "kafkajs";

const setting = (name, otherwise) => process.env[name] ?? otherwise;

const project = setting("PROJECT", "proj_1");
const topic = setting("TOPIC", "dunmore.payments.events");
const format = setting("FORMAT", "json");
// The event's own id and time. A repeat of the same event must have the same id.
const prefix = setting("EVENT_ID_PREFIX", `evt_${Date.now().toString(16)}_${randomUUID()}_`);
const occurredAt = setting("OCCURRED_AT", new Date().toISOString());

const wallet = "0x52908400098527886E0F7030069857D2E4169EE7";
// Amounts are texts: a float would lose digits.
const payment = {
  paymentId: "pay_1",
  endpointId: "ep_summarize",
  customerId: wallet,
  amount: "1.250000",
  currency: "USDC",
  network: "base",
};
const endpoint = { endpointId: "ep_summarize", path: "POST /v1/summarize" };

const events = [
  ["payment.verified", payment],
  ["payment.settled", { ...payment, txHash: "0x9fe1" }],
  ["payment.failed", { ...payment, paymentId: "pay_2", stage: "settle", reason: "insufficient_funds" }],
  [
    "customer.first_payment",
    {
      customerId: wallet,
      paymentId: "pay_1",
      endpointId: "ep_summarize",
      amount: "1.250000",
      currency: "USDC",
    },
  ],
  [
    "customer.milestone",
    { customerId: wallet, milestone: "100 calls", totalSpent: "125.500000", currency: "USDC" },
  ],
  ["endpoint.created", { ...endpoint, price: "0.05", currency: "USDC", network: "base" }],
  ["endpoint.pricing_changed", { ...endpoint, oldPrice: "0.05", newPrice: "0.07", currency: "USDC" }],
  [
    "revenue.daily_summary",
    {
      date: "2026-11-22",
      revenue: "1234.567800",
      currency: "USDC",
      paymentCount: 24690,
      customerCount: 321,
      failedCount: 12,
    },
  ],
];

// What a record holds, by format: the plain event, or CloudEvents 1.0 in one of its two modes.
const formats = {
  json: (id, type, data) => ({
    value: JSON.stringify({ id, type, projectId: project, occurredAt, data }),
  }),
  "cloudevents-structured": (id, type, data) => ({
    headers: { "content-type": "application/cloudevents+json; charset=utf-8" },
    value: JSON.stringify({
      specversion: "1.0",
      id,
      source: "/examples/node",
      type,
      time: occurredAt,
      projectid: project,
      datacontenttype: "application/json",
      data,
    }),
  }),
  "cloudevents-binary": (id, type, data) => ({
    headers: {
      "content-type": "application/json",
      ce_specversion: "1.0",
      ce_id: id,
      ce_source: "/examples/node",
      ce_type: type,
      ce_time: occurredAt,
      ce_projectid: project,
    },
    value: JSON.stringify(data),
  }),
};
const encode = formats[format];
if (!encode) throw new Error(`FORMAT must be one of ${Object.keys(formats).join(", ")}`);

const kafka = new Kafka({
  clientId: "dunmore-producer",
  brokers: setting("BOOTSTRAP_SERVERS", "localhost:9092").split(","),
  logLevel: logLevel.ERROR,
});
const producer = kafka.producer({
  // No loss and no duplicates on the way into Kafka.
  idempotent: true,
  // The partitioner of Kafka's Java clients, so that all programs agree on partitions.
  createPartitioner: Partitioners.DefaultPartitioner,
});

await producer.connect();
try {
  for (const [number, [type, data]] of events.entries()) {
    const id = `${prefix}${number + 1}`;
    // The key is the project: the events of a project stay in order.
    await producer.send({
      topic,
      acks: -1,
      messages: [{ key: project, ...encode(id, type, data) }],
    });
    console.log(id, type);
  }
} finally {
  await producer.disconnect();
}
