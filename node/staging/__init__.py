"""From a file or a command to changes that are ready to be signed.

Rooms:
    import_file  a file or a command becomes staged changes
    source       opens what is imported and cuts it between lines
    parse        reads pieces of a file of changes
    templates    lines that are alike but for their hashes, many at a time
    batches      operations on their way to staging, in the order of their entries
    reconcile    an import against what is staged and what is in force
    rows         a staged operation as a row that sorts and compares; many as a body
    edit         an edit of staged changes: rows, blocks, and the rule between them
    file         what the next publish will sign
    commitments  what the headers of the next deltas commit to, computed ahead
"""
