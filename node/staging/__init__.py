"""From a file or a command to changes that are ready to be signed.

Rooms:
    import_file  a file or a command becomes staged changes
    source       opens what is imported and cuts it between lines
    parse        reads pieces of a file of changes
    templates    reads many lines at a time that differ only in their hashes
    batches      operations on their way to staging, ordered by entry
    reconcile    compares an import with what is staged and in force
    rows         a staged operation as a row; many as a body
    edit         an edit of staged changes: its rows and blocks
    file         the staged changes, which the next publish will sign
    commitments  computes ahead what the next headers commit to
"""
