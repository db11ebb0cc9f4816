import sys
import threading

if __name__ == "__main__":
    # A failed save (a full disk) leaves hundreds of lines from its threads; it is reported where it is awaited.
    sys.unraisablehook = threading.excepthook = lambda _: None
    try:
        from experiments.cli import main

        main()
    except KeyboardInterrupt:  # while the libraries are still being imported
        sys.exit(130)
