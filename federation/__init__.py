"""The hashfed protocol, without I/O: bytes in, values or events out.

Knows nothing of sockets, files, databases, clocks and sources of randomness: time and random
bytes are arguments. Needs protobuf and PyNaCl only.
"""
