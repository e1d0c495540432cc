"""Looking after a store: copies, versions, and the check of what a node stands on.

Rooms:
    backup   a verified copy of the store
    restore  a backup takes the place of the store, which is kept
    migrate  a migrated copy takes the place of the store, which is kept
    doctor   what would keep a node from working
"""
