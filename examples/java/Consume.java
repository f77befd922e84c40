// Prints every change of every order. java -cp kafka-clients.jar:slf4j-api.jar Consume.java localhost:9092

import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

class Consume {
    public static void main(String[] args) {
        String prefix = System.getenv().getOrDefault("PREFIX", ""); // on a broker that several systems share
        Map<String, Object> settings = Map.of(
                "bootstrap.servers", args[0],
                "group.id", prefix + "my-erp",
                "auto.offset.reset", "earliest",
                "enable.auto.commit", "false");
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(prefix + "orderloop.order-changed.v1"));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    // At least once: order_no and version, in the body, make a repeat a repeat.
                    System.out.println(record.key() + " " + record.value());
                }
                consumer.commitSync();
            }
        }
    }
}
