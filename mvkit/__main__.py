"""``python -m mvkit``: how torchrun starts it."""

from mvkit.cli.main import main

if __name__ == "__main__":
    main()
