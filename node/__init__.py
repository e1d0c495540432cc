"""The running node around the protocol.

Rooms:
    errors   errors that an operator sees, with exit codes
    clock    the one place that reads the time of day
    home     where a node's files lie
    address  host and port, as people write them
    config   settings: options, environment, `config.toml`, defaults
"""
