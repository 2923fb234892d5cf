"""A small data set, which is read and split within a second. The package's own messages take 20 seconds."""

from pathlib import Path

# 500 messages that are spam and 500 that are not.
MESSAGES = Path(__file__).with_name("messages.csv")
