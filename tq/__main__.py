"""`python -m tq`."""

from tq.cli import main

main(prog_name="tq")
