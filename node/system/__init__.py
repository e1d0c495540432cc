"""The machine: files, locks, processes. Knows nothing of lists.

Rooms:
    durable        files that are on the disk when it says so
    external_sort  sorts more than fits in memory
    filesystem     which file systems can lose or damage a store
    locks          one process at a time; a dead one holds nothing
    scratch        temporary files without names
    settings       settings: declared, read from flags, variables and a file
    toml_file      a TOML file of known keys, read strictly
    wake           a datagram that says: the store has something new
    worker         a second process that shares a long computation
"""
