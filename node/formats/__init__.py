"""Text forms of a list: turns lines into operations and operations into lines. Opens no file.

Rooms:
    jsonl    changes as JSON Lines
    csvfile  lists as CSV
    layout   the fixed text of a line, and where the hashes are in it
"""
