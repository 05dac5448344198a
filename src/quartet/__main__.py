"""The command `quartet`."""

import sys


def main() -> None:
    """The entry point. Loading the commands takes a second, in which Ctrl-C ends as quietly as later."""
    try:
        from quartet import cli

        cli.main()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
