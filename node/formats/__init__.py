"""Text forms of a list: a line becomes an operation, an operation a line. Opens no file.

Rooms:
    jsonl    changes as JSON Lines
    csvfile  lists as CSV
    layout   the fixed text of a line, and where its hashes stand in it
"""
