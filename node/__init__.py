"""The hashfed node: store, gRPC server and client, and the command line around `federation`."""
