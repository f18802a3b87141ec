"""`python -m mupl ...` is `mupl ...`."""

from mupl.cli import main

main()
