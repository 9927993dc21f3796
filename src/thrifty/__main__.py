"""`python -m thrifty` is the command `thrifty`."""

from thrifty.cli.main import main

if __name__ == "__main__":
    main()
