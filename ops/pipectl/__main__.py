"""Where `pipectl` and `python -m pipectl` start."""

import gc
import sys

INTERRUPTED = 130
COLLECT_AFTER = 50_000  # new objects; Python's own 700 suits programs that run longer


def main() -> None:
    """Run the CLI; a Ctrl-C that comes while it is still being imported ends as any other does."""
    # Imports make objects by the ten thousand; looking for garbage among them is a twentieth of a command.
    gc.set_threshold(COLLECT_AFTER)
    try:
        from pipectl import surroundings  # noqa: PLC0415  see above

        surroundings.settle()
        from pipectl import cli  # noqa: PLC0415  100 ms, in which Ctrl-C must not end in a traceback

        cli.main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    if not sys.flags.safe_path:
        # The current folder, whose modules are not ours; those of this package are found without it.
        del sys.path[0]
    main()
