"""`python -m headwaiter_load`: the same as `headwaiter-load`."""

from headwaiter_load.cli import main

# The processes that send load import this file too, without being the command.
if __name__ == "__main__":
    main()
