"""The gRPC client that follows peers' lists. Knows nothing of who calls this node."""
