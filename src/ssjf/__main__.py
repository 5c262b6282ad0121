"""`python -m ssjf` is the command `ssjf`."""

from ssjf.cli.main import main

main()
