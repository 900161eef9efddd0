package dunmore;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.UUID;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumWriter;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryEncoder;
import org.apache.avro.io.EncoderFactory;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** Produces one payment event of each type, as JSON or as Avro. See ../README.md. */
public final class Producer {
  private static final String PROJECT = setting("PROJECT", "proj_1");
  private static final String TOPIC = setting("TOPIC", "dunmore.payments.events");
  private static final String WALLET = "0x52908400098527886E0F7030069857D2E4169EE7";
  private static final ObjectMapper JSON = new ObjectMapper();

  private interface Format {
    byte[] encode(Map<String, Object> event, String record) throws IOException;
  }

  /** An event type, the name of its record in the Avro schema, its data. */
  private record Example(String type, String record, Map<String, Object> data) {}

  private static String setting(String name, String otherwise) {
    String value = System.getenv(name);
    return value == null ? otherwise : value;
  }

  /** Names and values in turn, in this order. */
  private static Map<String, Object> fields(Object... namesAndValues) {
    Map<String, Object> fields = new LinkedHashMap<>();
    for (int i = 0; i < namesAndValues.length; i += 2) {
      fields.put((String) namesAndValues[i], namesAndValues[i + 1]);
    }
    return fields;
  }

  /** Amounts are texts: a double would lose digits. */
  private static Map<String, Object> payment(String id, Object... more) {
    Map<String, Object> payment =
        fields(
            "paymentId", id,
            "endpointId", "ep_summarize",
            "customerId", WALLET,
            "amount", "1.250000",
            "currency", "USDC",
            "network", "base");
    payment.putAll(fields(more));
    return payment;
  }

  private static Map<String, Object> endpoint(Object... more) {
    Map<String, Object> endpoint =
        fields("endpointId", "ep_summarize", "path", "POST /v1/summarize");
    endpoint.putAll(fields(more));
    return endpoint;
  }

  private static Example[] examples() {
    return new Example[] {
      new Example("payment.verified", "PaymentVerified", payment("pay_1")),
      new Example("payment.settled", "PaymentSettled", payment("pay_1", "txHash", "0x9fe1")),
      new Example(
          "payment.failed",
          "PaymentFailed",
          payment("pay_2", "stage", "settle", "reason", "insufficient_funds")),
      new Example(
          "customer.first_payment",
          "FirstPayment",
          fields(
              "customerId", WALLET,
              "paymentId", "pay_1",
              "endpointId", "ep_summarize",
              "amount", "1.250000",
              "currency", "USDC")),
      new Example(
          "customer.milestone",
          "CustomerMilestone",
          fields(
              "customerId", WALLET,
              "milestone", "100 calls",
              "totalSpent", "125.500000",
              "currency", "USDC")),
      new Example(
          "endpoint.created",
          "EndpointCreated",
          endpoint("price", "0.05", "currency", "USDC", "network", "base")),
      new Example(
          "endpoint.pricing_changed",
          "EndpointPricingChanged",
          endpoint("oldPrice", "0.05", "newPrice", "0.07", "currency", "USDC")),
      new Example(
          "revenue.daily_summary",
          "DailySummary",
          fields(
              "date", "2026-11-22",
              "revenue", "1234.567800",
              "currency", "USDC",
              "paymentCount", 24690L,
              "customerCount", 321L,
              "failedCount", 12L)),
    };
  }

  /**
   * Avro in Confluent's wire format. Confluent's own KafkaAvroSerializer does the same, but is not
   * on Maven Central; it is this: register the schema, then a zero byte, the id, the value.
   */
  private static Format avro() throws IOException, InterruptedException {
    String text = Files.readString(Path.of(setting("SCHEMA", "../../../schemas/event.avsc")));
    Schema schema = new Schema.Parser().parse(text);
    int id = register(text);
    Schema union = schema.getField("data").schema();
    return (event, record) -> {
      Schema dataSchema = union.getTypes().get(union.getIndexNamed("dunmore.payments." + record));
      GenericRecord data = new GenericData.Record(dataSchema);
      ((Map<?, ?>) event.get("data")).forEach((name, value) -> data.put((String) name, value));
      GenericRecord value = new GenericData.Record(schema);
      value.put("id", event.get("id"));
      value.put("type", event.get("type"));
      value.put("projectId", event.get("projectId"));
      value.put("occurredAt", Instant.parse((String) event.get("occurredAt")).toEpochMilli());
      value.put("data", data);
      value.put("extra", Map.of());
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      DataOutputStream header = new DataOutputStream(out);
      header.writeByte(0);
      header.writeInt(id);
      BinaryEncoder encoder = EncoderFactory.get().binaryEncoder(out, null);
      new GenericDatumWriter<GenericRecord>(schema).write(value, encoder);
      encoder.flush();
      return out.toByteArray();
    };
  }

  private static int register(String schema) throws IOException, InterruptedException {
    String url = setting("SCHEMA_REGISTRY_URL", "http://localhost:8081");
    String body = JSON.writeValueAsString(Map.of("schema", schema));
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(url + "/subjects/" + TOPIC + "-value/versions"))
            .header("Content-Type", "application/vnd.schemaregistry.v1+json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
    HttpResponse<String> answer =
        HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
    if (answer.statusCode() != 200) {
      throw new IOException("the registry refuses the schema: " + answer.body());
    }
    return JSON.readTree(answer.body()).get("id").asInt();
  }

  public static void main(String[] arguments) throws Exception {
    Format format =
        setting("FORMAT", "json").equals("avro")
            ? avro()
            : (event, record) -> JSON.writeValueAsBytes(event);
    // Kafka's defaults: idempotent, acknowledged by all replicas.
    Map<String, Object> settings =
        Map.of("bootstrap.servers", setting("BOOTSTRAP_SERVERS", "localhost:9092"));
    // The event's own id and time. A repeat of the same event must have the same id.
    String prefix = setting("EVENT_ID_PREFIX", "evt_" + UUID.randomUUID() + "_");
    // Instant leaves out digits that are zero; a time always has its milliseconds here.
    String now = Instant.now().truncatedTo(ChronoUnit.MILLIS).plusNanos(1).toString();
    String occurredAt = setting("OCCURRED_AT", now.substring(0, 23) + "Z");
    try (KafkaProducer<String, byte[]> producer =
        new KafkaProducer<>(settings, new StringSerializer(), new ByteArraySerializer())) {
      int number = 0;
      for (Example example : examples()) {
        number++;
        Map<String, Object> event =
            fields(
                "id", prefix + number,
                "type", example.type(),
                "projectId", PROJECT,
                "occurredAt", occurredAt,
                "data", example.data());
        byte[] value = format.encode(event, example.record());
        // The key is the project: the events of a project stay in order.
        producer.send(new ProducerRecord<>(TOPIC, PROJECT, value)).get();
        System.out.println(event.get("id") + " " + example.type());
      }
    }
  }
}
