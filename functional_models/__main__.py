"""`python -m functional_models` is the command `functional-models`."""

from functional_models.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
