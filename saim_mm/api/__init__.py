"""What the command ``saim-mm`` can do, as functions: a file a verb."""
