"""The command line. One module per group of commands; results on stdout, all else on stderr."""
