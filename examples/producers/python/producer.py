"""Produces one payment event of each type, as JSON or as Avro. See ../README.md."""

import json
import os
import time
import uuid
from datetime import datetime, timezone

from confluent_kafka import Producer

PROJECT = os.environ.get("PROJECT", "proj_1")
TOPIC = os.environ.get("TOPIC", "dunmore.payments.events")
WALLET = "0x52908400098527886E0F7030069857D2E4169EE7"

# Amounts are texts: a float would lose digits.
PAYMENT = {
    "paymentId": "pay_1",
    "endpointId": "ep_summarize",
    "customerId": WALLET,
    "amount": "1.250000",
    "currency": "USDC",
    "network": "base",
}
ENDPOINT = {"endpointId": "ep_summarize", "path": "POST /v1/summarize"}

# The type, the name of its record in the Avro schema, its data.
EVENTS = [
    ("payment.verified", "PaymentVerified", PAYMENT),
    ("payment.settled", "PaymentSettled", {**PAYMENT, "txHash": "0x9fe1"}),
    (
        "payment.failed",
        "PaymentFailed",
        {**PAYMENT, "paymentId": "pay_2", "stage": "settle", "reason": "insufficient_funds"},
    ),
    (
        "customer.first_payment",
        "FirstPayment",
        {
            "customerId": WALLET,
            "paymentId": "pay_1",
            "endpointId": "ep_summarize",
            "amount": "1.250000",
            "currency": "USDC",
        },
    ),
    (
        "customer.milestone",
        "CustomerMilestone",
        {
            "customerId": WALLET,
            "milestone": "100 calls",
            "totalSpent": "125.500000",
            "currency": "USDC",
        },
    ),
    (
        "endpoint.created",
        "EndpointCreated",
        {**ENDPOINT, "price": "0.05", "currency": "USDC", "network": "base"},
    ),
    (
        "endpoint.pricing_changed",
        "EndpointPricingChanged",
        {**ENDPOINT, "oldPrice": "0.05", "newPrice": "0.07", "currency": "USDC"},
    ),
    (
        "revenue.daily_summary",
        "DailySummary",
        {
            "date": "2026-11-22",
            "revenue": "1234.567800",
            "currency": "USDC",
            "paymentCount": 24690,
            "customerCount": 321,
            "failedCount": 12,
        },
    ),
]


def as_json(event, _record):
    return json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode()


def avro_serializer():
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    here = os.path.dirname(os.path.abspath(__file__))
    path = os.environ.get("SCHEMA", os.path.join(here, "../../../schemas/event.avsc"))
    with open(path, encoding="utf-8") as file:
        schema = file.read()
    url = os.environ.get("SCHEMA_REGISTRY_URL", "http://localhost:8081")
    serializer = AvroSerializer(SchemaRegistryClient({"url": url}), schema)
    context = SerializationContext(TOPIC, MessageField.VALUE)

    def as_avro(event, record):
        value = dict(event)
        value["occurredAt"] = datetime.fromisoformat(event["occurredAt"].replace("Z", "+00:00"))
        # `data` is one of eight records; its name says which.
        value["data"] = (f"dunmore.payments.{record}", event["data"])
        return serializer(value, context)

    return as_avro


def acknowledged(error, message):
    if error is not None:
        raise SystemExit(f"not written: {error}")


def main():
    serialize = avro_serializer() if os.environ.get("FORMAT") == "avro" else as_json
    producer = Producer(
        {
            "bootstrap.servers": os.environ.get("BOOTSTRAP_SERVERS", "localhost:9092"),
            # No loss and no duplicates on the way into Kafka.
            "enable.idempotence": True,
            "acks": "all",
            # The partitioner of Kafka's Java clients, so that all programs agree on partitions.
            "partitioner": "murmur2_random",
        }
    )
    # The event's own id and time. A repeat of the same event must have the same id.
    prefix = os.environ.get("EVENT_ID_PREFIX", f"evt_{time.time_ns():x}_{uuid.uuid4().hex[:8]}_")
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    now = os.environ.get("OCCURRED_AT", now)
    for number, (kind, record, data) in enumerate(EVENTS, start=1):
        event = {
            "id": f"{prefix}{number}",
            "type": kind,
            "projectId": PROJECT,
            "occurredAt": now,
            "data": data,
        }
        # The key is the project: the events of a project stay in order.
        producer.produce(
            TOPIC, key=PROJECT, value=serialize(event, record), on_delivery=acknowledged
        )
        print(event["id"], kind)
    if producer.flush(30) > 0:
        raise SystemExit("not all events were acknowledged in time")


if __name__ == "__main__":
    main()
