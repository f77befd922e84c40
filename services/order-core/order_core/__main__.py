"""order-core's commands: serve, migrate, relay."""

from orderloop.command import create

from .app import run

app = create("order-core", "order_core", run)

if __name__ == "__main__":
    app()
