import json

from orderloop_lab import jaeger


def test_every_listener_of_jaeger_gets_a_loopback_port_of_its_own() -> None:
    ports = {purpose: 20_000 + number for number, purpose in enumerate(jaeger.LISTENERS)}
    config = jaeger.config(ports)
    json.loads(config)
    assert all(config.count(str(port)) == 1 for port in ports.values())
    assert config.count("127.0.0.1") == len(ports)
