"""The machine: files, locks, processes. Knows nothing of lists.

Rooms:
    durable        writes files and makes sure that they are on the disk
    external_sort  sorts more than fits in memory
    filesystem     which file systems can lose or damage a store
    locks          lets one process at a time do something
    scratch        temporary files without names
    settings       declares settings, and reads them from flags, variables and a file
    toml_file      reads a TOML file of known keys strictly
    wake           a datagram that says that the store has something new
    worker         a second process that shares a long computation
"""
