"""`python -m experiments`, and the command `aiayn`, which does the same from any folder."""

import sys
import threading


def ignore(_: object) -> None:
    """Ignores an exception in a background thread.

    A failed save (for example on a full disk) would print hundreds of lines from its threads. The error is raised and
    reported where the save is awaited.
    """


def main() -> None:
    """Runs the command line."""
    sys.unraisablehook = ignore
    threading.excepthook = ignore
    try:
        from experiments.cli.main import main as run

        run()
    except KeyboardInterrupt:  # while the libraries are still being imported
        sys.exit(130)


if __name__ == "__main__":
    main()
