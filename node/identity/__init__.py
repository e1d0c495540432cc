"""Who this node is: its keys, its certificate, its first org root, its invitation.

Rooms:
    keys         the keys that sign, as files; who may read them
    certificate  the TLS certificate and its key
    create       a new node's keys and its first org root
    invitation   the file by which two organizations come to know each other
"""
