from orderloop import command

from .app import SERVICE, run

if __name__ == "__main__":
    command.create(SERVICE, "settlement", run)()
