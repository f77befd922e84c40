"""python -m logistics_poller serve | migrate | relay"""

from orderloop import command

from .app import SERVICE, run

main = command.create(SERVICE, "logistics_poller", run)

if __name__ == "__main__":
    main()
