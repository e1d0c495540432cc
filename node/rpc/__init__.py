"""The gRPC server that peers call. Knows nothing of what this node follows."""
