"""Looks after a store: copies, versions, and a check of everything that a node needs.

Rooms:
    backup   a verified copy of the store
    restore  replaces the store by a backup and keeps the old one
    migrate  replaces the store by a migrated copy and keeps the old one
    doctor   looks for what would keep a node from working
"""
