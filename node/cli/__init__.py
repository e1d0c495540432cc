"""The command line, a module for each group of commands.

Results go to stdout, all else to stderr.

Rooms:
    main             the program: global options, errors, exit codes
    context          what every command gets
    output           what commands print
    progress         progress bars, on a terminal only
    bars             draws these bars with rich
    signing          what commands do before they sign
    network          what commands need to ask peers
    node_cmd         `init`, `config`
    peer_cmd         `invite`, `peer`
    list_cmd         `list`, `follow`, `unfollow`
    stage_cmd        `import`, `retract`, `purge`, `staged`
    publish_cmd      `publish`
    snapshot_cmd     `snapshot`
    sync_cmd         `sync`, `offers`
    query_cmd        `lookup`, `show`, `log`, `status`
    history_cmd      `diff`, `export`
    serve_cmd        `serve`
    maintenance_cmd  `backup`, `migrate`, `doctor`
    fsck_cmd         `fsck`
    recover_cmd      `recover`, `restore`
"""
