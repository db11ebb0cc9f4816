import sys

if __name__ == "__main__":
    try:
        from experiments.cli import main

        main()
    except KeyboardInterrupt:  # while the libraries are still being imported
        sys.exit(130)
