"""vdsClient: the command line that operators and scripts use. Talks to the server and reads the schema."""
