"""Runs the book's additional experiments: `hf-spam reproduce`, from a checkout. `--help` lists its flags."""

import sys

from hf_spam.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "reproduce")
    main()
