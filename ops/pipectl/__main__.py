"""`python -m pipectl`."""

from pipectl.cli import main

if __name__ == "__main__":
    main()
