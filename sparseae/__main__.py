"""``python -m sparseae`` is the command ``sparseae``."""

from sparseae.cli import main

if __name__ == "__main__":
    main()
