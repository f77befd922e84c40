"""python -m payment_callback serve | migrate | relay"""

from orderloop import command

from .app import SERVICE, run

main = command.create(SERVICE, "payment_callback", run)

if __name__ == "__main__":
    main()
