"""`python -m experiments`, and the command `aiayn`, which is the same from any folder."""

import sys
import threading


def say_nothing(_: object) -> None:
    """A failed save (a full disk) leaves hundreds of lines from its threads; it is reported where it is awaited."""


def main() -> None:
    """Runs the command line."""
    sys.unraisablehook = say_nothing
    threading.excepthook = say_nothing
    try:
        from experiments.cli.main import main as run

        run()
    except KeyboardInterrupt:  # while the libraries are still being imported
        sys.exit(130)


if __name__ == "__main__":
    main()
