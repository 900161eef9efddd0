"""Writes the same settled payment with every serializer of the installed clients.

Settings, from the environment: BOOTSTRAP_SERVERS, TOPIC, SCHEMA_REGISTRY_URL, SCHEMA (a file). It prints the
number of records that it wrote, each with an id that names its way.
"""

import json
import os
from importlib.metadata import version

from confluent_kafka import Producer

DATA = {
    "paymentId": "pay_1",
    "endpointId": "ep_1",
    "customerId": "0x52",
    "amount": "1.250000",
    "currency": "USDC",
    "network": "base",
    "txHash": "0xab",
}
PROJECT = "proj_1"
TIME = "2026-11-23T08:00:00+00:00"
KIND = "payment.settled"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def attributes(way):
    return {
        "id": f"evt_{way}",
        "source": "/payments",
        "type": f"com.example.{KIND}",
        "subject": PROJECT,
        "time": TIME,
        "traceparent": TRACE,
    }


def cloudevents_1():
    """The SDK of the first major version: no content type of its own in structured mode."""
    from cloudevents.http import CloudEvent
    from cloudevents.kafka import to_binary, to_structured

    def make(way, data=DATA, **more):
        return CloudEvent({**attributes(way), **more}, data)

    json_type = {"datacontenttype": "application/json"}
    yield to_structured(make("1_structured"))
    yield to_structured(make("1_structured_json", **json_type))
    yield to_structured(make("1_structured_bytes", json.dumps(DATA).encode()))
    yield to_binary(make("1_binary", **json_type))


def cloudevents_2():
    """The SDK of the second major version: the same through its old interface and its new one."""
    from datetime import datetime

    from cloudevents.core.bindings.kafka import to_binary, to_structured
    from cloudevents.core.formats.json import JSONFormat
    from cloudevents.core.v1.event import CloudEvent

    def make(way, data=DATA, **more):
        given = {**attributes(way), "specversion": "1.0", **more}
        given["time"] = datetime.fromisoformat(TIME)
        return CloudEvent(given, data)

    json_type = {"datacontenttype": "application/json"}
    for name, message in [("structured", to_structured), ("binary", to_binary)]:
        yield message(make(f"2_{name}"), JSONFormat())
        yield message(make(f"2_{name}_json", **json_type), JSONFormat())
    yield to_structured(make("2_structured_bytes", json.dumps(DATA).encode()), JSONFormat())


def confluent_avro(topic):
    """Confluent's serializer with each naming strategy, and with the schema's id in a header."""
    from confluent_kafka import schema_registry as registry
    from confluent_kafka.schema_registry.avro import AvroSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    client = registry.SchemaRegistryClient({"url": os.environ["SCHEMA_REGISTRY_URL"]})
    with open(os.environ["SCHEMA"]) as file:
        schema = file.read()
    strategies = {
        "topic": registry.topic_subject_name_strategy,
        "record": registry.record_subject_name_strategy,
        "topic_record": registry.topic_record_subject_name_strategy,
    }
    for place in ["prefix", "header"]:
        for name, strategy in strategies.items():
            config = {
                "subject.name.strategy": strategy,
                "schema.id.serializer": getattr(registry, f"{place}_schema_id_serializer"),
            }
            serializer = AvroSerializer(client, schema, conf=config)
            headers = []
            context = SerializationContext(topic, MessageField.VALUE, headers)
            event = {
                "id": f"evt_avro_{place}_{name}",
                "type": KIND,
                "projectId": PROJECT,
                "occurredAt": 1795420800000,
                "data": ("dunmore.payments.PaymentSettled", DATA),
                "extra": {},
            }
            yield headers, serializer(event, context)


def main():
    topic = os.environ["TOPIC"]
    producer = Producer({"bootstrap.servers": os.environ["BOOTSTRAP_SERVERS"], "partitioner": "murmur2_random"})
    records = []
    if version("cloudevents").startswith("1."):
        records += [(list(message.headers.items()), message.value) for message in cloudevents_1()]
        records += confluent_avro(topic)
    else:
        records += [(list(message.headers.items()), message.value) for message in cloudevents_2()]
    failed = []
    for headers, value in records:
        producer.produce(
            topic, key=PROJECT, value=value, headers=headers,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
    producer.flush(60)
    if failed:
        raise SystemExit(str(failed[0]))
    print(len(records))


main()
