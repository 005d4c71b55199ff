"""The command line: one file a command. It talks to people and holds no algorithm."""
