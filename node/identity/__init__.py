"""Who this node is: its keys, its certificate, its first org root, its invitation.

Rooms:
    keys         the files of the keys that sign, and who may read them
    certificate  the TLS certificate and its key
    create       a new node's keys and its first org root
    invitation   the file by which two organizations come to know each other
"""
