"""The node's store: one SQLite file. Versioned; nothing that was accepted is overwritten.

`connection` opens it and owns transactions; `schema` says what lies in it; `registry` keeps
organizations, peers and lists; `log` the signed bytes; `entries` the index that lookups use;
`history` answers for the past.
"""
