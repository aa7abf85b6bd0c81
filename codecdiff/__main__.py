"""`python -m codecdiff`, the same as `codecdiff`."""

from codecdiff.cli.main import main

if __name__ == "__main__":
    main()
