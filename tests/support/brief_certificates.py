"""The command line, with certificates between regions that are good for seconds instead of months: run as a program."""

from datetime import timedelta

from node.cli import main
from node.regions import authority, ends

LIFETIME_S = 4.0

if __name__ == "__main__":
    authority.LIFETIME = timedelta(seconds=LIFETIME_S)
    ends.CERTIFY_EVERY_S = LIFETIME_S / 4
    main()
