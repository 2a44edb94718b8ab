"""`python -m scalecli`."""

from scalecli.cli.main import main

if __name__ == "__main__":
    main()
