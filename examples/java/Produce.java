// Tells OrderLoop that a label was printed.
// java -cp kafka-clients.jar:slf4j-api.jar Produce.java localhost:9092 ORDER_NO WAYBILL_NO

import java.time.Instant;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

class Produce {
    static final String TYPE = "orderloop.waybill-created.v1";

    public static void main(String[] args) throws Exception {
        String orderNo = args[1], waybillNo = args[2];
        String body = """
                {"order_no": "%1$s", "shipment_id": "%1$s_S1", "express_code": "zto", "waybill_no": "%2$s",
                 "warehouse": "suzhou", "parcel_no": 1, "parcel_count": 1, "created_at": "%3$s"}
                """.formatted(orderNo, waybillNo, Instant.now());
        String topic = System.getenv().getOrDefault("PREFIX", "") + TYPE;
        var record = new ProducerRecord<>(topic, orderNo, body); // the key keeps an order's events together
        // The id names the fact: sent again after a doubt, it counts once.
        Map.of("ce_specversion", "1.0", "ce_type", TYPE, "ce_source", "/my-wms", "ce_id", "label:" + waybillNo,
                "content-type", "application/json").forEach((name, value) -> record.headers().add(name, value.getBytes()));
        Map<String, Object> settings = Map.of("bootstrap.servers", args[0]); // acks=all, idempotent by default
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            producer.send(record).get();
        }
    }
}
