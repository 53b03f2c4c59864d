"""`python -m unbackdoor`."""

from unbackdoor.cli.main import main

main()
